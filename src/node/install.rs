//! Receiving a snapshot from the leader (paper §7).
//!
//! The chunks go to a file. When it is whole, it is read back and verified while a new
//! state machine is built from it beside the old one; then it gets its final name, on
//! disk, and only then does it replace the state, the log and what is promised of
//! them. A file that was received in part survives a restart, and is gone on with if
//! the leader still sends the very same snapshot.

use bytes::Bytes;
use log::{info, warn};

use crate::disk::{Disk, FileId};
use crate::kv::{Restore, StateMachine};
use crate::limits;
use crate::node::core::Node;
use crate::node::members::configuration_in;
use crate::raft::{Configuration, Message, SnapshotChunk, SnapshotMeta};
use crate::time::Time;
use crate::types::{EntryId, NodeId};

/// What is known of a snapshot on its way in.
#[derive(Default)]
pub(super) struct Install {
    incoming: Option<Incoming>,
    installed: u64,
}

struct Incoming {
    leader: NodeId,
    last: EntryId,
    checksum: u32,
    /// Its length, 0 where that is not known yet.
    total_bytes: u64,
    /// How much of it has been handed to the disk.
    received: u64,
    phase: Phase,
}

enum Phase {
    /// Chunks come in.
    Receiving,
    /// The whole file is read back.
    Verifying {
        restore: Box<Restore>,
        offset: u64,
        call: Message,
        meta: SnapshotMeta,
    },
    /// It was right, and gets its final name.
    Naming {
        machine: Box<StateMachine>,
        configuration: Configuration,
        call: Message,
        meta: SnapshotMeta,
    },
}

impl Install {
    /// Goes on with a file that an earlier run has received in part.
    pub(super) fn resume(leader: NodeId, last: EntryId, checksum: u32, received: u64) -> Install {
        let phase = Phase::Receiving;
        let incoming = Some(Incoming {
            leader,
            last,
            checksum,
            total_bytes: 0,
            received,
            phase,
        });
        Install {
            incoming,
            installed: 0,
        }
    }

    /// How many were installed since the start.
    pub(super) fn installed(&self) -> u64 {
        self.installed
    }

    /// Whether there is one.
    pub(super) fn is_receiving(&self) -> bool {
        self.incoming.is_some()
    }

    /// The memory that the second store takes, or is going to take, in bytes.
    pub(super) fn store_bytes(&self) -> u64 {
        self.incoming
            .as_ref()
            .map_or(0, |incoming| match &incoming.phase {
                Phase::Naming { machine, .. } => machine.live_bytes(),
                Phase::Receiving | Phase::Verifying { .. } => incoming.total_bytes,
            })
    }

    /// Whether the state is about to be replaced.
    pub(super) fn is_restoring(&self) -> bool {
        let phase = self.incoming.as_ref().map(|incoming| &incoming.phase);
        matches!(phase, Some(Phase::Verifying { .. } | Phase::Naming { .. }))
    }
}

impl Incoming {
    fn file(&self) -> FileId {
        let (last, checksum, leader) = (self.last, self.checksum, self.leader);
        FileId::SnapshotIncoming {
            last,
            checksum,
            leader,
        }
    }

    fn is(&self, leader: NodeId, meta: &SnapshotMeta) -> bool {
        (self.leader, self.last, self.checksum) == (leader, meta.last, meta.checksum)
    }
}

impl<D: Disk> Node<D> {
    /// The leader sent a piece of a snapshot that is ahead of this node.
    pub(super) fn receive_chunk(&mut self, _now: Time, call: Message, chunk: SnapshotChunk) {
        let SnapshotChunk {
            snapshot: meta,
            offset,
            data,
        } = chunk;
        if !self
            .install
            .incoming
            .as_ref()
            .is_some_and(|known| known.is(call.from.id, &meta))
        {
            self.begin_install(call.from.id, meta);
        }
        let Some(incoming) = &mut self.install.incoming else {
            return;
        };
        incoming.total_bytes = meta.total_bytes;
        if matches!(incoming.phase, Phase::Receiving)
            && offset == incoming.received
            && offset + data.len() as u64 <= meta.total_bytes
        {
            incoming.received += data.len() as u64;
            self.disk.append_file(incoming.file(), data);
            if incoming.received == meta.total_bytes {
                let restore = Box::new(Restore::new(self.config.session_limits));
                let call = call.clone();
                incoming.phase = Phase::Verifying {
                    restore,
                    offset: 0,
                    call,
                    meta,
                };
                self.disk
                    .read_file(incoming.file(), 0, limits::SNAPSHOT_CHUNK_BYTES);
            }
        }
        let next_offset = incoming.received.min(meta.total_bytes);
        self.raft.answer_snapshot(&call, meta, next_offset, false);
    }

    fn begin_install(&mut self, leader: NodeId, meta: SnapshotMeta) {
        if let Some(old) = self.install.incoming.take() {
            self.disk.remove_file(old.file());
        }
        info!(target: "Raft", "receive snapshot: leader={leader} last={} bytes={}", meta.last, meta.total_bytes);
        let incoming = Incoming {
            leader,
            last: meta.last,
            checksum: meta.checksum,
            total_bytes: meta.total_bytes,
            received: 0,
            phase: Phase::Receiving,
        };
        self.disk.create_file(incoming.file());
        self.install.incoming = Some(incoming);
    }

    /// A piece of the received file was read back.
    pub(super) fn incoming_read(&mut self, id: FileId, at: u64, data: &Bytes) {
        let Some(incoming) = &mut self.install.incoming else {
            return;
        };
        let file = incoming.file();
        let Phase::Verifying {
            restore,
            offset,
            meta,
            ..
        } = &mut incoming.phase
        else {
            return;
        };
        if file != id || at != *offset {
            return;
        }
        let total = meta.total_bytes;
        *offset += data.len() as u64;
        let done = *offset >= total || data.is_empty();
        if let Err(error) = restore.feed(data) {
            return self.discard_incoming(&error.to_string());
        }
        if done {
            self.finish_verifying();
        } else {
            let next = *offset;
            self.disk
                .read_file(file, next, limits::SNAPSHOT_CHUNK_BYTES);
        }
    }

    fn finish_verifying(&mut self) {
        let Some(mut incoming) = self.install.incoming.take() else {
            return;
        };
        let file = incoming.file();
        let Phase::Verifying {
            restore,
            call,
            meta,
            ..
        } = incoming.phase
        else {
            unreachable!("called while verifying")
        };
        incoming.phase = Phase::Receiving;
        let verdict = match restore.info() {
            Ok(_) if meta.last.index <= self.raft.commit_index() => {
                Err("the log has come further meanwhile".to_owned())
            }
            Ok(info) if (info.last, info.checksum) != (meta.last, meta.checksum) => {
                Err("it is not the snapshot that was announced".to_owned())
            }
            Ok(_) => restore
                .finish()
                .map_err(|error| error.to_string())
                .and_then(|(machine, configuration)| {
                    configuration_in(&configuration, &self.config.first_members)
                        .map(|configuration| (machine, configuration))
                        .map_err(|error| error.to_string())
                }),
            Err(error) => Err(error.to_string()),
        };
        match verdict {
            Ok((machine, configuration)) => {
                incoming.phase = Phase::Naming {
                    machine: Box::new(machine),
                    configuration,
                    call,
                    meta,
                };
                self.install.incoming = Some(incoming);
                self.disk.finish_file(file, FileId::Snapshot(meta.last));
            }
            Err(reason) => {
                self.install.incoming = Some(incoming);
                self.discard_incoming(&reason);
            }
        }
    }

    /// What was received is worth nothing; the leader begins anew.
    fn discard_incoming(&mut self, reason: &str) {
        if let Some(incoming) = self.install.incoming.take() {
            warn!(target: "Raft", "received snapshot thrown away: last={} reason={reason}", incoming.last);
            self.disk.remove_file(incoming.file());
        }
    }

    pub(super) fn incoming_no_space(&mut self, id: FileId) {
        if self
            .install
            .incoming
            .as_ref()
            .is_some_and(|incoming| incoming.file() == id)
        {
            self.make_room();
            self.discard_incoming("no space left on the disk");
        }
    }

    /// The received snapshot is on disk under its final name: it replaces the state.
    pub(super) fn incoming_finished(&mut self, now: Time, last: EntryId) {
        let named = |incoming: &mut Incoming| {
            incoming.last == last && matches!(incoming.phase, Phase::Naming { .. })
        };
        let Some(incoming) = self.install.incoming.take_if(named) else {
            return;
        };
        let Phase::Naming {
            machine,
            configuration,
            call,
            meta,
        } = incoming.phase
        else {
            unreachable!("just looked")
        };
        if self.raft.install_snapshot(now, meta.last, configuration) {
            self.abandon_snapshot();
            self.machine = *machine;
            self.state_check.forget();
            self.install.installed += 1;
            self.snapshots.adopt(meta);
            info!(target: "Raft", "snapshot installed: last={last} keys={}", self.machine.len());
        } else {
            // The log has come further meanwhile; the file is as good as one of our own.
            self.disk.remove_file(FileId::Snapshot(meta.last));
        }
        self.raft
            .answer_snapshot(&call, meta, meta.total_bytes, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_on_its_way_counts_as_a_second_store() {
        assert_eq!(Install::default().store_bytes(), 0);
        let mut install = Install::resume(NodeId(1), EntryId::new(1, 5), 7, 100);
        let incoming = install.incoming.as_mut().expect("it goes on");
        incoming.total_bytes = 5_000;
        assert_eq!(install.store_bytes(), 5_000);
    }
}
