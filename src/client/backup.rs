//! Backups: a snapshot fetched from a running node, and one written into a cluster.
//!
//! A backup is the file of a snapshot as it is (`kv/snapshot.rs` has the format): each of
//! its blocks has a checksum, and so has the whole. [`fetch`] verifies it while it comes,
//! [`verify`] reads one again. [`restore`] writes the keys of one into a cluster through
//! the ordinary door, as any client would: who belongs to that cluster, what it has in its
//! logs and who leads it is nothing that a backup could get wrong.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;

use crate::client::connection::{Connection, describe};
use crate::client::protocol::Operation;
use crate::client::{Client, ClientError, ClientOptions, Range, WriteOp};
use crate::kv::{Keep, Restore, SessionLimits, SnapshotError, SnapshotInfo};
use crate::limits;
use crate::mem::Buffer;
use crate::net::envelope::encode_call;
use crate::pb::backup_response::Outcome;
use crate::pb::{BackupResponse, BeginBackupRequest, ReadBackupRequest};

/// How long one question to a node takes at most.
const ASK: Duration = Duration::from_secs(5);
/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(50);
/// What is read of a file at a time, in bytes.
const READ_BYTES: usize = 256 << 10;
/// Batches of a restore that are on their way at a time: as many clients.
const LANES: usize = 8;
/// Bytes of keys and values of one batch, beside the entry that reaches it.
const BATCH_BYTES: usize = 256 << 10;

/// Why there is no backup, or none was written back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No node could be asked, or none came on for as long as it may take. Nothing was
    /// done; try again.
    #[error("{0}")]
    NotReached(String),
    /// A node, or the cluster, says no.
    #[error("{0}")]
    Refused(String),
    /// The bytes are not a backup.
    #[error("{0}")]
    Damaged(#[from] SnapshotError),
    /// The file cannot be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// A write into the cluster failed. What was written before it stays: run it again.
    #[error("{0}")]
    Write(ClientError),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The node writes the snapshot; so many bytes of it.
    Preparing(u64),
    /// So many bytes of so many were fetched or read.
    Bytes(u64, u64),
    /// So many keys of so many were written.
    Keys(u64, u64),
}

/// A node that is being asked for a backup.
struct Source {
    addr: SocketAddr,
    connection: Option<Connection>,
    sequence_id: u64,
    /// For how long it may make no progress.
    patience: Duration,
}

impl Source {
    /// Asks until there is an answer other than "not now".
    fn ask(
        &mut self,
        method: &str,
        request: &impl prost::Message,
    ) -> Result<BackupResponse, BackupError> {
        let deadline = Instant::now() + self.patience;
        loop {
            let why = match self.ask_once(method, request, deadline) {
                Ok(response) => match Outcome::try_from(response.outcome) {
                    Ok(Outcome::Done | Outcome::Preparing) => return Ok(response),
                    Ok(Outcome::Refused) => {
                        let reason = format!("{}: {}", self.addr, response.reason);
                        return Err(BackupError::Refused(reason));
                    }
                    // Busy, in whatever words.
                    Ok(Outcome::NotNow) => response.reason,
                    Err(_) => "busy".to_owned(),
                },
                Err(reason) => {
                    self.connection = None;
                    reason
                }
            };
            if Instant::now() + PAUSE >= deadline {
                let reason = format!("{}: {why}", self.addr);
                return Err(BackupError::NotReached(reason));
            }
            thread::sleep(PAUSE);
        }
    }

    fn ask_once(
        &mut self,
        method: &str,
        request: &impl prost::Message,
        deadline: Instant,
    ) -> Result<BackupResponse, String> {
        let deadline = deadline.min(Instant::now() + ASK);
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(self.addr, deadline);
                self.connection.insert(opened.map_err(|e| describe(&e))?)
            }
        };
        self.sequence_id += 1;
        let mut frame = Buffer::default();
        encode_call(
            &mut frame,
            "OperatorService",
            method,
            self.sequence_id,
            request,
        );
        let reply = connection
            .exchange(&frame, self.sequence_id, deadline)
            .map_err(|failure| failure.reason)?;
        BackupResponse::decode(reply.payload)
            .map_err(|_| "an undecodable answer: is it an older version?".to_owned())
    }

    /// Begins a backup: the index that its snapshot has to reach.
    fn begin(&mut self) -> Result<u64, BackupError> {
        let response = self.ask("BeginBackup", &BeginBackupRequest { index: 0 })?;
        if response.index == 0 {
            let reason = format!("{}: knows no backups: an older version?", self.addr);
            return Err(BackupError::Refused(reason));
        }
        Ok(response.index)
    }

    /// Waits for the snapshot.
    fn wait(
        &mut self,
        index: u64,
        progress: &mut impl FnMut(Progress),
    ) -> Result<BackupResponse, BackupError> {
        let (mut written, mut moved) = (0, Instant::now());
        loop {
            let response = self.ask("BeginBackup", &BeginBackupRequest { index })?;
            if response.outcome == i32::from(Outcome::Done) {
                return Ok(response);
            }
            if written != response.written_bytes {
                (written, moved) = (response.written_bytes, Instant::now());
            }
            if moved.elapsed() > self.patience {
                let reason = format!("{}: the snapshot makes no progress", self.addr);
                return Err(BackupError::NotReached(reason));
            }
            progress(Progress::Preparing(written));
            thread::sleep(PAUSE);
        }
    }
}

/// Fetches a backup into `to` from the first of the nodes at `addrs` that can be asked: all
/// that was acknowledged before this was called is in it. A node may make no progress for
/// as long as `patience`. What was written to `to` is a backup only if this succeeds.
///
/// # Errors
/// See [`BackupError`].
pub fn fetch(
    addrs: &[SocketAddr],
    patience: Duration,
    to: &mut impl Write,
    mut progress: impl FnMut(Progress),
) -> Result<SnapshotInfo, BackupError> {
    let (mut source, index) = begin_anywhere(addrs, patience)?;
    let snapshot = source.wait(index, &mut progress)?;
    let total = snapshot.total_bytes;
    let mut check = Restore::keeping((), SessionLimits::default());
    let mut request = ReadBackupRequest {
        last_index: snapshot.last_index,
        last_term: snapshot.last_term,
        checksum: snapshot.checksum,
        total_bytes: total,
        offset: 0,
    };
    while request.offset < total {
        let piece = source.ask("ReadBackup", &request)?;
        if piece.data.is_empty() || piece.offset != request.offset {
            let reason = format!("{}: another piece than asked for", source.addr);
            return Err(BackupError::Refused(reason));
        }
        check.feed(&piece.data)?;
        to.write_all(&piece.data)?;
        request.offset += piece.data.len() as u64;
        progress(Progress::Bytes(request.offset, total));
    }
    let info = check.info()?;
    if (info.checksum, info.total_bytes) != (snapshot.checksum, total) {
        let reason = format!("{}: another snapshot than it had named", source.addr);
        return Err(BackupError::Refused(reason));
    }
    Ok(info)
}

/// The first node that can say how far a backup has to reach.
fn begin_anywhere(addrs: &[SocketAddr], patience: Duration) -> Result<(Source, u64), BackupError> {
    let mut tried = Vec::new();
    let each = patience / u32::try_from(addrs.len().max(1)).unwrap_or(u32::MAX);
    for &addr in addrs {
        let mut source = Source {
            addr,
            connection: None,
            sequence_id: 0,
            patience: each.min(ASK),
        };
        match source.begin() {
            Ok(index) => {
                source.patience = patience;
                return Ok((source, index));
            }
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(BackupError::NotReached(format!(
        "cluster not reachable: {}",
        tried.join(", ")
    )))
}

/// Reads a backup to its end and says what it is.
///
/// # Errors
/// [`BackupError::Damaged`] with the offset, [`BackupError::File`].
pub fn verify(
    from: &mut impl Read,
    progress: impl FnMut(u64),
) -> Result<SnapshotInfo, BackupError> {
    let mut check = Restore::keeping((), SessionLimits::default());
    read_through(from, &mut check, progress, |_| Ok(()))?;
    Ok(check.info()?)
}

/// Feeds all of a file, and lets `take` have what was kept after each piece.
fn read_through<K: Keep>(
    from: &mut impl Read,
    restore: &mut Restore<K>,
    mut progress: impl FnMut(u64),
    mut take: impl FnMut(&mut K) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let (mut piece, mut read) = (vec![0; READ_BYTES], 0);
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                restore.feed(&piece[..count])?;
                take(restore.kept())?;
                read += count as u64;
                progress(read);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes the keys of a backup into the cluster that the nodes at `addrs` belong to, each
/// with its value, over what a key may hold. `keys` is how many there are, as [`verify`]
/// says; other keys stay, and sessions are not restored: they belong to clients of the
/// cluster that was. A write has to succeed within `timeout`.
///
/// Unless `force`, the cluster must hold no key.
///
/// # Errors
/// See [`BackupError`]. What was written stays; to run it again, with `force`, does no harm.
pub fn restore(
    addrs: &[SocketAddr],
    timeout: Duration,
    force: bool,
    (from, keys): (&mut impl Read, u64),
    mut progress: impl FnMut(Progress),
) -> Result<(), BackupError> {
    let options = ClientOptions {
        timeout,
        // To write a value twice is to write it once.
        explicit_sessions: false,
        ..ClientOptions::default()
    };
    let client = || Client::at(addrs.to_vec(), options.clone()).map_err(BackupError::Write);
    if !force {
        must_be_empty(&mut client()?)?;
    }
    let clients = (0..LANES)
        .map(|_| client())
        .collect::<Result<Vec<_>, _>>()?;
    let (to_lanes, batches) = sync_channel(LANES);
    let (batches, failed) = (Mutex::new(batches), Mutex::new(None));
    let sent = thread::scope(|scope| {
        for client in clients {
            let (batches, failed) = (&batches, &failed);
            scope.spawn(move || write_batches(client, batches, failed));
        }
        // The lane ends with it, and so do the threads.
        send_batches(from, keys, to_lanes, &failed, &mut progress)
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(BackupError::Write(error)),
        None => sent,
    }
}

fn must_be_empty(client: &mut Client) -> Result<(), BackupError> {
    let range = Range {
        entries_max: 1,
        ..Range::default()
    };
    let page = client.scan(range).map_err(BackupError::Write)?;
    if page.entries.is_empty() {
        return Ok(());
    }
    Err(BackupError::Refused(
        "the cluster holds keys already; --force writes over those that the backup has, and \
         leaves the others"
            .to_owned(),
    ))
}

/// Writes what comes through the lane, and after a failure takes it without writing, so
/// that nobody waits.
fn write_batches(
    mut client: Client,
    batches: &Mutex<Receiver<Vec<WriteOp>>>,
    failed: &Mutex<Option<ClientError>>,
) {
    loop {
        let next = batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(mut batch) = next else {
            return;
        };
        if has_failed(failed) {
            continue;
        }
        let operation = match batch.pop() {
            // The largest value does not fit a batch.
            Some(WriteOp::Update { key, value }) if batch.is_empty() => {
                Operation::Update { key, value }
            }
            last => {
                batch.extend(last);
                Operation::Batch(batch)
            }
        };
        if let Err(error) = client.call(operation) {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
    }
}

fn has_failed(failed: &Mutex<Option<ClientError>>) -> bool {
    failed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some()
}

/// Reads the file and puts its keys into the lane, a batch at a time.
fn send_batches(
    from: &mut impl Read,
    keys: u64,
    to_lanes: SyncSender<Vec<WriteOp>>,
    failed: &Mutex<Option<ClientError>>,
    progress: &mut impl FnMut(Progress),
) -> Result<(), BackupError> {
    let mut restore = Restore::keeping(Vec::new(), SessionLimits::default());
    let (mut batch, mut bytes, mut sent) = (Vec::new(), 0, 0);
    let send = |batch: &mut Vec<WriteOp>| {
        let full = std::mem::take(batch);
        // The threads take all that comes, for as long as there is a sender.
        to_lanes.send(full).expect("the lanes outlive their sender");
    };
    read_through(
        from,
        &mut restore,
        |_| {},
        |kept: &mut Vec<(Bytes, Bytes)>| {
            for (key, value) in kept.drain(..) {
                let entry = key.len() + value.len();
                let is_full = batch.len() >= limits::BATCH_OPERATIONS_MAX;
                if is_full || (bytes + entry > BATCH_BYTES && !batch.is_empty()) {
                    sent += batch.len() as u64;
                    send(&mut batch);
                    bytes = 0;
                    progress(Progress::Keys(sent, keys));
                }
                bytes += entry;
                batch.push(WriteOp::Update { key, value });
            }
            if has_failed(failed) {
                // Which failure it was is said by whoever waits for the lanes.
                return Err(BackupError::Refused("a write has failed".to_owned()));
            }
            Ok(())
        },
    )?;
    restore.info()?;
    if !batch.is_empty() {
        send(&mut batch);
    }
    progress(Progress::Keys(keys, keys));
    Ok(())
}
