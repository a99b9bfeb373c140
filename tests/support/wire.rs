//! A client of the wire format alone: frames, envelopes, messages.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use raftkv::pb;
use raftkv::pb::kv_operation_response::{Data, StatusCode};

/// The first 8 bytes of each frame.
pub const MAGIC: u64 = 0x0A1B_2C3D_4E5F_6A7B;
/// Magic, total length, header checksum.
pub const HEADER_BYTES: usize = 16;
/// The service of the key-value store.
pub const KV_SERVICE: &str = "KVOperationService";

/// A header for a frame of `total` bytes; its checksum is over the little-endian integers.
pub fn header(total: u32) -> [u8; HEADER_BYTES] {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&MAGIC.to_le_bytes());
    sum.update(&total.to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC.to_be_bytes());
    header[8..12].copy_from_slice(&total.to_be_bytes());
    header[12..].copy_from_slice(&sum.finalize().to_be_bytes());
    header
}

/// A frame around any body.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(HEADER_BYTES + body.len()).expect("a short body");
    let mut frame = header(total).to_vec();
    frame.extend_from_slice(body);
    frame
}

/// An envelope with right size and checksum.
pub fn envelope(service: &str, method: &str, sequence: u64, payload: Vec<u8>) -> pb::RaftRpcData {
    pb::RaftRpcData {
        service_name: service.to_owned(),
        method_name: method.to_owned(),
        sequence_id: sequence,
        payload_size: u32::try_from(payload.len()).expect("a short payload"),
        payload_checksum: crc32fast::hash(&payload),
        payload: Bytes::from(payload),
        ..Default::default()
    }
}

/// The frame of a call.
pub fn call_frame(service: &str, method: &str, sequence: u64, payload: Vec<u8>) -> Vec<u8> {
    frame(&envelope(service, method, sequence, payload).encode_to_vec())
}

/// The frame of a key-value request.
pub fn request_frame(sequence: u64, request: &pb::KvOperationRequest) -> Vec<u8> {
    call_frame(KV_SERVICE, "Execute", sequence, request.encode_to_vec())
}

/// A key-value request of a client that is named by `uuid`.
pub fn request(
    kind: pb::OperationType,
    uuid: &str,
    key: impl AsRef<[u8]>,
    value: impl AsRef<[u8]>,
) -> pb::KvOperationRequest {
    pb::KvOperationRequest {
        r#type: kind as i32,
        meta: Some(pb::Meta {
            uuid: uuid.to_owned(),
        }),
        key: Bytes::copy_from_slice(key.as_ref()),
        value: Bytes::copy_from_slice(value.as_ref()),
        ..Default::default()
    }
}

/// What a compare-and-set compares with; `None` for an absent key.
pub fn comparison(expected: Option<&[u8]>, remove: bool) -> Option<pb::Comparison> {
    let expected = expected.map(Bytes::copy_from_slice);
    Some(pb::Comparison { expected, remove })
}

/// A name for a client that no other one has.
pub fn new_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// What a node answered, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SUCCESS with the value.
    Value(Bytes),
    /// CREATED.
    Created,
    /// NOT_FOUND.
    NotFound,
    /// REDIRECT to the leader's client address.
    Redirect(String),
    /// BAD_REQUEST with its reason.
    BadRequest(String),
    /// INTERNAL_ERROR with its code and reason.
    Failed(pb::ErrorCode, String),
    /// INTERNAL_ERROR with BATCH_FAILED, and the operation that failed, from 1 on.
    BatchFailed(u32),
    /// SUCCESS with the entries of a scan, and where it goes on.
    Entries(Vec<(Bytes, Bytes)>, Option<Bytes>),
}

impl Answer {
    /// Takes an answer apart.
    ///
    /// # Panics
    /// If its parts do not belong together.
    pub fn from_response(response: pb::KvOperationResponse) -> Answer {
        let code = response.error_code();
        let status = response.status_code();
        match (status, response.data) {
            (StatusCode::Success, Some(Data::Payload(value))) => Answer::Value(value),
            (StatusCode::Success, None) => {
                let page = response.page.expect("only a scan has no payload");
                let entries = page.entries.into_iter().map(|e| (e.key, e.value));
                let next = Some(page.next_key).filter(|key| !key.is_empty());
                Answer::Entries(entries.collect(), next)
            }
            (StatusCode::Created, None) => Answer::Created,
            (StatusCode::NotFound, None) => Answer::NotFound,
            (StatusCode::Redirect, Some(Data::Address(address))) => Answer::Redirect(address),
            (StatusCode::BadRequest, Some(Data::Reason(reason))) => Answer::BadRequest(reason),
            (StatusCode::InternalError, Some(Data::Reason(reason)))
                if code == pb::ErrorCode::BatchFailed =>
            {
                let failed = response.failed_operation;
                assert!(failed > 0, "a batch failed without an operation: {reason}");
                Answer::BatchFailed(failed)
            }
            (StatusCode::InternalError, Some(Data::Reason(reason))) => Answer::Failed(code, reason),
            (status, data) => panic!("status {status:?} came with {data:?}, error code {code:?}"),
        }
    }
}

/// One connection to one port.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    sequence: u64,
    /// Answers that came before the one that was waited for.
    early: HashMap<u64, Bytes>,
}

impl Connection {
    /// Connects; each read and write will take at most `timeout`.
    pub fn open(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Connection {
            stream,
            sequence: 0,
            early: HashMap::new(),
        })
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Reads one frame, header included; `None` if the node closed the connection instead.
    ///
    /// # Panics
    /// If what comes is not a frame.
    pub fn read_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut start = [0; HEADER_BYTES];
        let mut got = 0;
        while got < HEADER_BYTES {
            match self.stream.read(&mut start[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => got += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset && got == 0 => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        let total = u32::from_be_bytes(start[8..12].try_into().expect("four bytes"));
        assert_eq!(start, header(total), "the answer has a wrong header");
        let mut frame = vec![0; total as usize];
        frame[..HEADER_BYTES].copy_from_slice(&start);
        self.stream.read_exact(&mut frame[HEADER_BYTES..])?;
        Ok(Some(frame))
    }

    /// Reads one envelope and holds it against its own size and checksum.
    pub fn read_envelope(&mut self) -> io::Result<Option<pb::RaftRpcData>> {
        let Some(frame) = self.read_frame()? else {
            return Ok(None);
        };
        let body = Bytes::from(frame).slice(HEADER_BYTES..);
        let envelope = pb::RaftRpcData::decode(body).expect("an envelope");
        assert_eq!(envelope.payload_size as usize, envelope.payload.len());
        assert_eq!(
            envelope.payload_checksum,
            crc32fast::hash(&envelope.payload)
        );
        Ok(Some(envelope))
    }

    /// Waits until the node closes the connection, reading whatever it still sends.
    pub fn wait_closed(&mut self) -> io::Result<()> {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends a key-value request and does not wait; the answer has the same sequence id.
    pub fn send(&mut self, sequence: u64, request: &pb::KvOperationRequest) -> io::Result<()> {
        self.send_raw(&request_frame(sequence, request))
    }

    /// Waits for the payload that answers the call with this sequence id.
    pub fn receive_payload(&mut self, sequence: u64) -> io::Result<Bytes> {
        loop {
            if let Some(payload) = self.early.remove(&sequence) {
                return Ok(payload);
            }
            let envelope = self
                .read_envelope()?
                .ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
            self.early.insert(envelope.sequence_id, envelope.payload);
        }
    }

    /// Waits for the answer to the request with this sequence id.
    pub fn receive(&mut self, sequence: u64) -> io::Result<Answer> {
        let payload = self.receive_payload(sequence)?;
        let response = pb::KvOperationResponse::decode(payload).expect("a response");
        Ok(Answer::from_response(response))
    }

    /// Sends a request with the next sequence id and waits for its answer.
    pub fn execute(&mut self, request: &pb::KvOperationRequest) -> io::Result<Answer> {
        self.sequence += 1;
        self.send(self.sequence, request)?;
        self.receive(self.sequence)
    }

    /// Asks the node for its status.
    pub fn status(&mut self) -> io::Result<pb::StatusResponse> {
        self.sequence += 1;
        let payload = pb::StatusRequest {}.encode_to_vec();
        let call = call_frame("StatusService", "Get", self.sequence, payload);
        self.send_raw(&call)?;
        let payload = self.receive_payload(self.sequence)?;
        Ok(pb::StatusResponse::decode(payload).expect("a status"))
    }
}
