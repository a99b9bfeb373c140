//! What a node is told at its start.

use std::time::Duration;

use crate::raft::configuration::Configuration;
use crate::types::Server;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node and its data directory.
    pub server: Server,
    /// Members as of the snapshot that the log begins behind; empty where there is none
    /// and the directory has not been founded or adopted. What the log says is newer.
    pub configuration: Configuration,
    /// Members before the first entry of a log that begins below feature level 1.
    pub first_members: Configuration,
    /// An election begins after a time drawn from this range (paper §5.2). The same on
    /// all nodes.
    pub election_timeout: (Duration, Duration),
    /// How often a leader says that it is there; well below the election timeout.
    pub heartbeat: Duration,
    /// Seeds all random choices.
    pub seed: u64,
    /// Whether this directory takes part in elections below feature level 1, where no
    /// configuration says so.
    pub established: bool,
    /// Whether this node answers reads by a lease while it leads, and gives the promises
    /// that other leaders' leases rest on.
    pub read_lease: bool,
    /// The longest promise that this directory may ever have given, by its disk. It is
    /// honoured after a restart, whatever the options are now.
    pub promised: Duration,
    /// A disk that has made no progress for so long costs a leader its leadership.
    pub disk_patience: Duration,
}
