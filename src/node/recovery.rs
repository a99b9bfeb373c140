//! What the disk has at a start, and what a node makes of it.
//!
//! The newest snapshot that verifies and the log behind it, if they fit together; a
//! log without the snapshot that it begins behind is lost data, and refused.

use std::time::Duration;

use bytes::Bytes;
use log::{info, warn};

use crate::disk::{Disk, FileId, FileInfo, Meta, is_bad_medium};
use crate::kv::{Restore, SnapshotError, StateMachine};
use crate::node::core::{Node, NodeConfig, Parts};
use crate::node::durability::Ledger;
use crate::node::identity::{Identity, was_established};
use crate::node::install::Install;
use crate::node::members::configuration_in;
use crate::node::snapshots::Snapshots;
use crate::raft::{Config, Configuration, Log, Raft, SnapshotMeta};
use crate::time::Time;
use crate::types::{Birth, Entry, EntryId, Incarnation, Payload, Server};
use crate::wal::{Batch, Recovered, Wal, WalError, WalOptions};

/// Why a node does not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The directory or a file in it cannot be read.
    #[error(
        "{what}: cannot be read: {source}; check the disk; if the file is lost, start the node with \
         --rejoin: that moves its data aside and lets it catch up from its peers"
    )]
    Read {
        /// What was read.
        what: String,
        /// Why it can't be.
        source: std::io::Error,
    },
    /// The log begins behind an entry that no intact snapshot reaches.
    #[error(
        "the log begins behind {mark}, but {found}: acknowledged data is missing; restore the \
         .snap files of this directory, or start the node with --rejoin: that moves its data aside \
         and lets it catch up from its peers"
    )]
    SnapshotMissing {
        /// Where the log begins.
        mark: EntryId,
        /// What is there instead.
        found: String,
    },
    /// There is no log, though there once was one.
    #[error(
        "the log is gone (no .wal file with a part of it), but {found}: votes and acknowledged data are missing; \
         restore the .wal files of this directory, or start the node with --rejoin: that moves its \
         data aside and lets it catch up from its peers"
    )]
    LogMissing {
        /// What shows that there was one.
        found: &'static str,
    },
    /// The description of the directory is damaged.
    #[error(
        "the file `meta` is damaged; restore it, or start the node with --rejoin: that moves its data aside and lets it catch up from its peers"
    )]
    Meta,
    /// The file by which a node of the version before knew that it voted is damaged.
    #[error(
        "the file `peers` is damaged: it says whether this node may vote; restore it, or start the node \
         with --rejoin: that moves its data aside and lets it catch up from its peers"
    )]
    Peers,
    /// A file was written by a newer build.
    #[error("{what} is of a newer version than this program knows; start the newer program")]
    Newer {
        /// Which one.
        what: String,
    },
    /// A configuration was written by a newer build.
    #[error(
        "the {place} names the members of the cluster in a way that is not known here: it was \
         written by a newer version"
    )]
    Configuration {
        /// Where it is.
        place: &'static str,
    },
}

impl OpenError {
    /// Whether what was on the disk is damaged, missing or out of place, so that
    /// `--rejoin` is of help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            OpenError::Wal(error) => error.is_damage(),
            OpenError::Read { source, .. } => is_bad_medium(source),
            OpenError::SnapshotMissing { .. }
            | OpenError::LogMissing { .. }
            | OpenError::Meta
            | OpenError::Peers => true,
            OpenError::Newer { .. } | OpenError::Configuration { .. } => false,
        }
    }
}

/// What was found at a start, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoverySummary {
    /// The newest snapshot.
    pub snapshot: EntryId,
    /// Entries read from the log.
    pub entries: usize,
    /// Whether a write was cut off that a crash had left incomplete.
    pub torn: bool,
}

const READ_BYTES: usize = 1 << 20;

/// The newest snapshot, restored, and what else there is of the kind.
struct FoundSnapshots {
    machine: StateMachine,
    /// The members of the cluster then.
    configuration: Configuration,
    newest: Option<SnapshotMeta>,
    /// The intact ones, as far as was looked, the newest last.
    kept: Vec<EntryId>,
    /// Why the newest is not the newest file, if it is not.
    damaged: Option<String>,
}

impl<D: Disk> Node<D> {
    /// Starts a node from what its disk has; the disk of a new node is empty.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed then.
    pub fn open(
        config: NodeConfig,
        mut disk: D,
        now: Time,
    ) -> Result<(Node<D>, RecoverySummary), OpenError> {
        let files = disk
            .files()
            .map_err(|source| read_error("the data directory", source))?;
        let meta = find_meta(&mut disk, &files, &config)?;
        let established = find_established(&mut disk, &files, &config, &meta)?;
        let FoundSnapshots {
            machine,
            configuration,
            newest,
            kept,
            damaged,
        } = find_snapshots(&mut disk, &config, &files)?;
        let options = WalOptions {
            node: config.id,
            cluster_id: meta.cluster_id,
            incarnation: meta.incarnation,
            segment_bytes: config.segment_bytes,
            first_segment_bytes: config.first_segment_bytes,
        };
        let (mut wal, recovered) = Wal::read(&mut disk, options)?;
        check_log_is_there(recovered.report.segments, &files, &meta)?;
        let Recovered {
            mut hard_state,
            snapshot_mark,
            entries,
            report,
        } = recovered;
        check_configurations(&entries)?;
        let last = machine.applied();
        if last.index < snapshot_mark.index {
            let found = damaged.unwrap_or_else(|| match last {
                EntryId::ZERO => "there is no snapshot".to_owned(),
                last => format!("the newest snapshot ends at {last}"),
            });
            return Err(OpenError::SnapshotMissing {
                mark: snapshot_mark,
                found,
            });
        }
        // Only now: a directory that is refused stays as it is.
        wal.begin_again(&mut disk);
        let summary = RecoverySummary {
            snapshot: last,
            entries: entries.len(),
            torn: report.torn.is_some(),
        };
        if let Some(torn) = &report.torn {
            info!(target: "Wal", "cut off an incomplete write: at={:?} reason={}", torn.at, torn.reason);
        }
        let (log, reset) = join(last, snapshot_mark, entries);
        // A snapshot is of entries that others have committed, and may be on disk before the
        // log has even their term. Nobody was told anything in that term, so there is no vote.
        let is_newer = last.term > hard_state.term;
        if is_newer {
            hard_state.term = last.term;
            hard_state.voted_for = None;
        }
        if reset || is_newer {
            let batch = Batch {
                hard_state: is_newer.then_some(hard_state),
                snapshot_mark: reset.then_some(last),
                ..Batch::default()
            };
            wal.append(&mut disk, batch);
        }
        // A directory of the version before begins with the first members.
        let is_older = meta.version == 1 && configuration.is_empty();
        let raft_config = Config {
            server: Server {
                id: config.id,
                incarnation: Incarnation(meta.incarnation),
            },
            configuration: match is_older {
                true => config.first_members.clone(),
                false => configuration,
            },
            first_members: config.first_members.clone(),
            election_timeout: config.election_timeout,
            heartbeat: config.heartbeat,
            seed: config.seed,
            established,
            read_lease: config.read_lease,
            promised: Duration::from_millis(meta.promised_ms),
            disk_patience: config.disk_patience,
        };
        let marked = log.base();
        let mut raft = Raft::new(raft_config, hard_state, log, now);
        raft.restore_commit(last.index);
        let parts = Parts {
            install: find_incoming(&mut disk, &files, last),
            snapshots: Snapshots::restore(newest, kept, marked),
            ledger: Ledger::new(wal),
            config,
            raft,
            disk,
            machine,
            identity: Identity::new(meta),
        };
        let node = Node::assemble(parts);
        if !node.config.addresses_from_file {
            node.compare_addresses();
        }
        Ok((node, summary))
    }
}

/// What the core reads in the log it takes for granted.
fn check_configurations(entries: &[Entry]) -> Result<(), OpenError> {
    let unknown = |entry: &Entry| match &entry.payload {
        Payload::Config(bytes) => Configuration::decode(bytes).is_err(),
        _ => false,
    };
    if entries.iter().any(unknown) {
        return Err(OpenError::Configuration { place: "log" });
    }
    Ok(())
}

/// A directory in which something was promised has a log; what is there to be recycled
/// is none.
fn check_log_is_there(segments: usize, files: &[FileInfo], meta: &Meta) -> Result<(), OpenError> {
    let named = meta.birth != Birth::NONE || meta.was_voter;
    let traces = named.then_some("`meta` names the cluster that it belonged to");
    let traces = traces.or_else(|| {
        files.iter().find_map(|file| match file.id {
            FileId::Peers => Some("the file `peers` is there"),
            FileId::Snapshot(_) => Some("a snapshot is there"),
            _ => None,
        })
    });
    match traces {
        Some(found) if segments == 0 => Err(OpenError::LogMissing { found }),
        _ => Ok(()),
    }
}

/// Puts the log behind the state of the snapshot. Says whether the log on disk has to be
/// told that it begins there: when it does not hold the snapshot's last entry.
fn join(last: EntryId, mark: EntryId, entries: Vec<Entry>) -> (Log, bool) {
    let log = Log::restore(mark, entries);
    if log.contains(last) {
        (log, false)
    } else {
        (Log::restore(last, Vec::new()), true)
    }
}

fn read_error(what: &str, source: std::io::Error) -> OpenError {
    OpenError::Read {
        what: what.to_owned(),
        source,
    }
}

/// Reads a whole file, a piece at a time.
fn read_file<D: Disk>(
    disk: &mut D,
    id: FileId,
    mut take: impl FnMut(&[u8]) -> bool,
) -> std::io::Result<()> {
    let (mut offset, mut piece) = (0, vec![0; READ_BYTES]);
    loop {
        let got = disk.recover_file(id, offset, &mut piece)?;
        if got == 0 || !take(&piece[..got]) {
            return Ok(());
        }
        offset += got as u64;
    }
}

/// A small file, whole; `None` if it is not there.
fn read_small<D: Disk>(
    disk: &mut D,
    files: &[FileInfo],
    id: FileId,
    what: &str,
) -> Result<Option<Vec<u8>>, OpenError> {
    if !files.iter().any(|file| file.id == id) {
        return Ok(None);
    }
    let mut content = Vec::new();
    read_file(disk, id, |piece| {
        content.extend_from_slice(piece);
        content.len() <= READ_BYTES
    })
    .map_err(|source| read_error(what, source))?;
    Ok(Some(content))
}

/// The description of the directory, as the disk has it.
fn find_meta<D: Disk>(
    disk: &mut D,
    files: &[FileInfo],
    config: &NodeConfig,
) -> Result<Meta, OpenError> {
    match read_small(disk, files, FileId::Meta, "the file `meta`")? {
        None => Ok(config.meta.clone()),
        Some(text) => Meta::read(&String::from_utf8_lossy(&text)).ok_or(OpenError::Meta),
    }
}

/// Whether a directory of the version before took part in elections: it says so, or it is
/// that of the only member.
fn find_established<D: Disk>(
    disk: &mut D,
    files: &[FileInfo],
    config: &NodeConfig,
    meta: &Meta,
) -> Result<bool, OpenError> {
    if meta.version > 1 {
        return Ok(false);
    }
    let first = &config.first_members;
    let alone = first.len() == 1 && first.contains_id(config.id);
    match read_small(disk, files, FileId::Peers, "the file `peers`")? {
        None => Ok(alone && meta.replaces.is_none()),
        Some(file) => was_established(&file).ok_or(OpenError::Peers),
    }
}

/// Restores the newest snapshot that verifies.
fn find_snapshots<D: Disk>(
    disk: &mut D,
    config: &NodeConfig,
    files: &[FileInfo],
) -> Result<FoundSnapshots, OpenError> {
    let mut ids: Vec<EntryId> = files
        .iter()
        .filter_map(|file| match file.id {
            FileId::Snapshot(last) => Some(last),
            _ => None,
        })
        .collect();
    ids.sort_by_key(|last| last.index);
    let mut damaged = None;
    while let Some(last) = ids.pop() {
        match restore_snapshot(disk, config, last)? {
            Ok((machine, meta, configuration)) => {
                ids.push(last);
                let configuration = configuration_in(&configuration, &config.first_members)
                    .map_err(|_| OpenError::Configuration { place: "snapshot" })?;
                return Ok(FoundSnapshots {
                    machine,
                    configuration,
                    newest: Some(meta),
                    kept: ids,
                    damaged,
                });
            }
            // An older one would hide what the newer program has written.
            Err(SnapshotError::Version { .. }) => {
                return Err(OpenError::Newer {
                    what: format!("the snapshot that ends at {last}"),
                });
            }
            Err(error) => {
                warn!(target: "Raft", "snapshot is damaged: last={last} reason={error}");
                damaged = Some(format!(
                    "the snapshot that ends at {last} is damaged ({error})"
                ));
            }
        }
    }
    let machine = StateMachine::new(config.session_limits);
    Ok(FoundSnapshots {
        machine,
        configuration: Configuration::default(),
        newest: None,
        kept: Vec::new(),
        damaged,
    })
}

type Restored = Result<(StateMachine, SnapshotMeta, Bytes), SnapshotError>;

fn restore_snapshot<D: Disk>(
    disk: &mut D,
    config: &NodeConfig,
    last: EntryId,
) -> Result<Restored, OpenError> {
    let mut restore = Restore::new(config.session_limits);
    let mut fed = Ok(());
    read_file(disk, FileId::Snapshot(last), |piece| {
        fed = restore.feed(piece);
        fed.is_ok()
    })
    .map_err(|source| read_error("a snapshot", source))?;
    Ok(fed.and_then(|()| {
        let info = restore.info()?;
        let meta = SnapshotMeta {
            last,
            checksum: info.checksum,
            total_bytes: info.total_bytes,
        };
        let (machine, configuration) = restore.finish()?;
        Ok((machine, meta, configuration))
    }))
}

/// A snapshot that was being received goes on where it was, if it is still of use.
fn find_incoming<D: Disk>(disk: &mut D, files: &[FileInfo], applied: EntryId) -> Install {
    let mut install = Install::default();
    for file in files {
        if let FileId::SnapshotIncoming {
            last,
            checksum,
            leader,
        } = file.id
        {
            if last.index > applied.index && !install.is_receiving() {
                install = Install::resume(leader, last, checksum, file.len);
            } else {
                disk.remove_file(file.id);
            }
        }
    }
    install
}
