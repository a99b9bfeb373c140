//! What a node is told before it starts: who the members are, and how it is tuned.
//!
//! [`Cluster`] is the default of seven nodes on this machine, or what a TOML file
//! says (`file`); [`ServerArgs`] is the command line of `raft_example` (`args`),
//! which has the last word. Nothing here opens a socket or a directory.

mod args;
mod cluster;
mod file;
mod memory;
mod tuning;

pub use args::{ArgsExit, LogArgs, ServerArgs};
pub use cluster::{Cluster, Founding, Member};
pub use file::Config;
pub use memory::default_memory_limit;
pub use tuning::Tuning;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a configuration is not accepted. Nothing was started; the operator has to
/// change what the one line names.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The cluster file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The cluster file says something that cannot be.
    #[error("{path}{line}: {reason}", path = path.display(), line = LineSuffix(*line))]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on, where one is to blame.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
    },
    /// A tuning value is out of its range or contradicts another one.
    #[error("{0}")]
    Tuning(String),
}

impl ConfigError {
    fn in_file(path: &Path, line: Option<usize>, reason: impl Into<String>) -> ConfigError {
        ConfigError::File {
            path: path.to_path_buf(),
            line,
            reason: reason.into(),
        }
    }
}

/// `:7`, or nothing.
struct LineSuffix(Option<usize>);

impl std::fmt::Display for LineSuffix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// A time after which something ends, in milliseconds; 0 means that it never does.
fn limit_ms(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}
