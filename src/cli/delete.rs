//! `starling delete`.

use std::ffi::OsString;

use clap::Args;
use reqwest::Method;

use super::client::{Client, KeyName};
use super::exit::Outcome;
use super::put::WriteArgs;

/// Deletes a value. Deleting what is not there succeeds.
#[derive(Args, Debug)]
pub(super) struct DeleteArgs {
    /// The bucket
    bucket: String,
    /// The key
    key: OsString,
    #[command(flatten)]
    write: WriteArgs,
}

pub(super) async fn run(args: DeleteArgs) -> anyhow::Result<Outcome> {
    let name = KeyName::parse(&args.bucket, &args.key)?;
    let path = args.write.path(&name);
    args.write.send(|client: &Client| client.request(Method::DELETE, &path)).await
}
