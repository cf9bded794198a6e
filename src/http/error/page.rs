//! `/errors/<code>`: what an error's `type` leads to.

use serde::Serialize;

use super::{Code, Failure};
use crate::http::answer::{self, Answer};

#[derive(Serialize)]
struct Page {
    code: &'static str,
    status: u16,
    title: &'static str,
    meaning: &'static str,
    what_to_do: &'static str,
}

/// The page of a code, as JSON.
///
/// # Errors
/// `no-such-route` where there is no such code.
pub fn error_page(name: &str) -> Result<Answer, Failure> {
    let Some(code) = Code::by_name(name) else {
        return Err(Failure::new(
            Code::NoSuchRoute,
            "there is no error with this code; see /openapi.json for those there are",
        ));
    };
    let about = code.about();
    Ok(answer::json(&Page {
        code: about.name,
        status: about.status.as_u16(),
        title: about.title,
        meaning: about.meaning,
        what_to_do: about.what_to_do,
    }))
}
