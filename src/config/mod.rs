//! Settings: a file, the environment and flags become one validated [`Settings`].
//!
//! The later source wins: file, then `STARLING_` variables, then flags. Whatever is wrong is
//! reported at once, each with where it was said, its key, and what would be right. After loading,
//! nothing in a [`Settings`] can be wrong by form; what only a running node can know (a taken port,
//! a foreign data directory) is not checked here.

mod check;
mod environment;
mod error;
mod file;
mod load;
mod section;
mod settings;
mod value;

pub use error::{Origin, Problem, SettingError, SettingsErrors};
pub use load::{Loaded, Overrides};
pub use settings::{
    BucketSettings, HintSettings, InitialNode, LogFormat, LogSettings, MembershipSettings,
    ReadRepair, RepairSettings, Secret, Settings, StorageSettings, StreamingSettings,
};

#[cfg(test)]
mod tests;
