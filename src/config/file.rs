//! The cluster file: TOML with one `[[node]]` table a member.
//!
//! ```toml
//! [[node]]
//! id = 0
//! peer = "10.0.0.1:4396"     # ip:port, where the other nodes reach it
//! client = "10.0.0.1:4397"   # ip:port, where clients reach it
//! priority = 0               # optional, 0 to 255: who has the highest leads first
//!
//! [raft]                     # optional, as is every key in it
//! election_timeout_ms = [150, 300]
//! heartbeat_ms = 50
//! disk_patience_ms = 2000
//! disk_give_up_ms = 30000
//! read_lease = false
//!
//! [log]                      # optional, as is every key in it
//! segment_bytes = 16777216
//! snapshot_log_bytes = 16777216
//! snapshot_tail_bytes = 4194304
//! snapshot_hold_bytes = 67108864
//! snapshot_write_bytes_per_sec = 8388608
//! snapshot_send_bytes_per_sec = 67108864
//!
//! [store]                    # optional, as is every key in it
//! memory_limit = 1073741824
//! ```
//!
//! A key that is not listed here is an error, so that a typing error does not
//! silently leave the default in force.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::config::{Cluster, ConfigError, Member, Tuning, limit_ms};
use crate::types::NodeId;

/// What a cluster file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The members.
    pub cluster: Cluster,
    /// The tuning, defaults where the file has nothing.
    pub tuning: Tuning,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    node: Vec<Spanned<Node>>,
    #[serde(default)]
    raft: Raft,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    store: Store,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    id: u64,
    peer: Spanned<String>,
    client: Spanned<String>,
    #[serde(default)]
    priority: u8,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raft {
    election_timeout_ms: Option<(u64, u64)>,
    heartbeat_ms: Option<u64>,
    disk_patience_ms: Option<u64>,
    disk_give_up_ms: Option<u64>,
    read_lease: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    segment_bytes: Option<u64>,
    snapshot_log_bytes: Option<u64>,
    snapshot_tail_bytes: Option<u64>,
    snapshot_hold_bytes: Option<u64>,
    snapshot_write_bytes_per_sec: Option<u64>,
    snapshot_send_bytes_per_sec: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Store {
    memory_limit: Option<u64>,
}

impl Config {
    /// Reads a cluster file.
    ///
    /// # Errors
    ///
    /// One line with file, line and reason.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Config::parse(&text, path)
    }

    /// Takes the text of a cluster file apart; `path` is for messages.
    ///
    /// # Errors
    ///
    /// As [`Config::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let document: Document = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|span| line_of(text, span.start));
            ConfigError::in_file(path, line, e.message().replace('\n', ", "))
        })?;

        let address = |addr: &Spanned<String>| {
            addr.get_ref().parse::<SocketAddr>().map_err(|_| {
                let reason = format!("`{}` is not an ip:port", addr.get_ref());
                ConfigError::in_file(path, Some(line_of(text, addr.span().start)), reason)
            })
        };
        let mut members = Vec::with_capacity(document.node.len());
        for node in &document.node {
            let node = node.get_ref();
            members.push(Member {
                id: NodeId(node.id),
                peer: address(&node.peer)?,
                client: address(&node.client)?,
                priority: node.priority,
            });
        }
        let cluster = Cluster::new(members).map_err(|(at, reason)| {
            let line = at.map(|at| line_of(text, document.node[at].span().start));
            ConfigError::in_file(path, line, reason)
        })?;

        let tuning = tuning(&document.raft, &document.log, &document.store);
        tuning
            .check()
            .map_err(|e| ConfigError::in_file(path, None, e.to_string()))?;
        Ok(Config { cluster, tuning })
    }
}

fn tuning(raft: &Raft, log: &Log, store: &Store) -> Tuning {
    let default = Tuning::default();
    let ms = |given: Option<u64>, default| given.map_or(default, Duration::from_millis);
    Tuning {
        election_timeout_min: ms(
            raft.election_timeout_ms.map(|(min, _)| min),
            default.election_timeout_min,
        ),
        election_timeout_max: ms(
            raft.election_timeout_ms.map(|(_, max)| max),
            default.election_timeout_max,
        ),
        heartbeat: ms(raft.heartbeat_ms, default.heartbeat),
        disk_patience: ms(raft.disk_patience_ms, default.disk_patience),
        disk_give_up: raft.disk_give_up_ms.map_or(default.disk_give_up, limit_ms),
        read_lease: raft.read_lease.unwrap_or(default.read_lease),
        snapshot_log_bytes: log.snapshot_log_bytes.unwrap_or(default.snapshot_log_bytes),
        snapshot_tail_bytes: log
            .snapshot_tail_bytes
            .unwrap_or(default.snapshot_tail_bytes),
        snapshot_hold_bytes: log
            .snapshot_hold_bytes
            .unwrap_or(default.snapshot_hold_bytes),
        snapshot_write_bytes_per_sec: log
            .snapshot_write_bytes_per_sec
            .unwrap_or(default.snapshot_write_bytes_per_sec),
        snapshot_send_bytes_per_sec: log
            .snapshot_send_bytes_per_sec
            .unwrap_or(default.snapshot_send_bytes_per_sec),
        segment_bytes: log.segment_bytes.unwrap_or(default.segment_bytes),
        memory_limit: store.memory_limit.or(default.memory_limit),
        reactors: default.reactors,
        pin_cores: default.pin_cores,
    }
}

/// The line, from 1 on, of a byte offset.
fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: &str = r#"
[[node]]
id = 3
peer = "10.0.0.1:1"
client = "10.0.0.1:2"

[[node]]
id = 1
peer = "[::1]:1"
client = "[::1]:2"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("c.toml")).map_err(|e| e.to_string())
    }

    #[test]
    fn members_come_in_the_order_of_their_ids() {
        let config = parse(TWO).unwrap();
        let ids: Vec<u64> = config.cluster.members().iter().map(|m| m.id.0).collect();
        assert_eq!(ids, [1, 3]);
        assert_eq!(config.tuning, Tuning::default());
    }

    #[test]
    fn tuning_sections_replace_the_defaults_they_name() {
        let text = format!(
            "{TWO}[raft]\nelection_timeout_ms = [500, 900]\n[log]\nsnapshot_tail_bytes = 7\n[store]\nmemory_limit = 100000000\n"
        );
        let tuning = parse(&text).unwrap().tuning;
        assert_eq!(tuning.election_timeout_min, Duration::from_millis(500));
        assert_eq!(tuning.election_timeout_max, Duration::from_millis(900));
        assert_eq!(tuning.snapshot_tail_bytes, 7);
        assert_eq!(tuning.memory_limit, Some(100_000_000));
        assert_eq!(tuning.heartbeat, Tuning::default().heartbeat);
    }

    #[test]
    fn every_error_is_one_line_with_the_place() {
        let swap = |from: &str, to: &str| parse(&TWO.replace(from, to)).unwrap_err();
        for (error, expected) in [
            (
                parse("").unwrap_err(),
                "c.toml: no [[node]]: a cluster needs at least one",
            ),
            (swap("id = 1", "id = 3"), "c.toml:7: id 3 is given twice"),
            (
                swap("[::1]:2", "10.0.0.1:1"),
                "c.toml:7: address 10.0.0.1:1 is given twice",
            ),
            (
                swap("[::1]:2", "[::1]:1"),
                "c.toml:7: address [::1]:1 is given twice",
            ),
            (
                swap("10.0.0.1:2", "localhost:2"),
                "c.toml:5: `localhost:2` is not an ip:port",
            ),
            (
                swap("10.0.0.1:2", "0.0.0.0:2"),
                "c.toml:2: `0.0.0.0:2`: others have to reach it, give a real ip and port",
            ),
            (
                parse(&format!("{TWO}[raft]\nheartbeat_ms = 0\n")).unwrap_err(),
                "c.toml: heartbeat_ms: must be at least 1",
            ),
        ] {
            assert_eq!(error, expected);
        }
        for (error, start, part) in [
            (swap("id = 3", "id = 3\nport = 4"), "c.toml:4: ", "`port`"),
            (swap("id = 3", "id = -3"), "c.toml:3: ", "-3"),
            (swap("id = 3", "id = "), "c.toml:3: ", ""),
            (swap("id = 3\n", ""), "c.toml:2: ", "`id`"),
            (
                parse(&format!("{TWO}[rafts]\n")).unwrap_err(),
                "c.toml:11: ",
                "`rafts`",
            ),
            (
                parse(&format!("{TWO}[log]\nsegment = 1\n")).unwrap_err(),
                "c.toml:12: ",
                "`segment`",
            ),
            (
                parse(&format!("{TWO}[raft]\nelection_timeout_ms = [1]\n")).unwrap_err(),
                "c.toml:12: ",
                "",
            ),
        ] {
            assert!(error.starts_with(start) && error.contains(part), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Config::read(Path::new("/nonexistent/c.toml")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/c.toml: "));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\[\\[node\\]\\]\n|id = [0-9]{1,20}\n|peer = \"[0-9.:]{0,12}\"\n|.{0,20}\n){0,8}") {
            let _ = parse(&text);
        }
    }
}
