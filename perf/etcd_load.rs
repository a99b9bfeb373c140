//! A closed-loop load on etcd, for `perf/compare.sh`: puts or linearizable gets over kept
//! connections, as `raft_bench` does them on our own cluster.
//!
//! ```sh
//! cargo run --release --example etcd_load -- --addr 127.0.0.1:2379 --op put --connections 64
//! ```
//!
//! A thread that shares the machine with the servers must be cheap, so this is as much
//! of gRPC over HTTP/2 as two unary calls need and no more: prior knowledge, header
//! blocks that never change, no table of headers on either side. Answers are checked:
//! each stream has to end with trailers that say `grpc-status: 0`. Prints one line of
//! JSON with the names of `raft_bench`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// How long a leader is looked for, and how long the run may go on without an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Latencies are kept to three digits.
const DIGITS: u8 = 3;
/// Longer ones count as this.
const LATENCY_NS_MAX: u64 = 100_000_000_000;
const READ_BYTES: usize = 64 << 10;
const KEY_BYTES: usize = 16;
/// Tags and lengths of a message's fields, at most.
const MESSAGE_OVERHEAD_BYTES: usize = 16;

/// Loads etcd in a closed loop, at the node that leads.
#[derive(Parser)]
struct Cli {
    /// A node's client address; may be given more than once
    #[arg(long = "addr", value_name = "HOST:PORT", required = true)]
    addrs: Vec<String>,
    /// What is asked for
    #[arg(long, value_enum, default_value = "put")]
    op: Op,
    /// Connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Streams in flight on each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pipeline: u32,
    /// How many keys there are, of 16 bytes
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=10_000))]
    value_bytes: u32,
    /// How long is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Each key once, in order, instead of random ones for some time
    #[arg(long)]
    fill: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Op {
    Put,
    Get,
}

// The fields of etcd's `rpc.proto` that are used; the others are skipped.

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Linearizable unless it says otherwise.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// What HTTP/2 (RFC 9113) needs for unary calls of gRPC; does no I/O.
mod http2 {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const FRAME_HEADER_BYTES: usize = 9;
    /// gRPC's: whether it is compressed, and the length.
    const MESSAGE_HEADER_BYTES: usize = 5;

    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;

    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    const PADDED: u8 = 0x8;

    const HEADER_TABLE_SIZE: u16 = 1;
    const ENABLE_PUSH: u16 = 2;
    const INITIAL_WINDOW_SIZE: u16 = 4;

    /// What each side may send at first, on the connection and on each stream.
    const WINDOW_BYTES: u32 = 65_535;
    /// What we let the other side send.
    const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
    /// After so many bytes we let it send as many again.
    const WINDOW_STEP_BYTES: u32 = 16 << 20;

    /// `grpc-status: 0` as a literal (RFC 7541, 6.2), the name in the code of Huffman.
    const STATUS_OK: &[u8] = b"\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010";
    /// The same without it.
    const STATUS_OK_PLAIN: &[u8] = b"\x0bgrpc-status\x010";

    /// The end of a call.
    #[derive(Debug, PartialEq, Eq)]
    pub struct Answer {
        pub stream: u32,
        pub is_ok: bool,
        /// The message, if it has come.
        pub body: Vec<u8>,
    }

    /// Our side of one connection.
    pub struct Http2 {
        /// What has to be sent.
        pub out: Vec<u8>,
        received: Vec<u8>,
        next_stream: u32,
        /// What the other side still lets us send on the connection. Streams have
        /// windows of their own; each carries one small message, far below them.
        window: i64,
        /// Received since it was last let send more.
        taken_bytes: u32,
        /// Data of calls that have not ended.
        bodies: Vec<(u32, Vec<u8>)>,
    }

    impl Http2 {
        pub fn new() -> Http2 {
            let mut http2 = Http2 {
                out: PREFACE.to_vec(),
                received: Vec::new(),
                next_stream: 1,
                window: WINDOW_BYTES.into(),
                taken_bytes: 0,
                bodies: Vec::new(),
            };
            let mut settings = Vec::new();
            // Without a table all that the server sends is literal, and can be compared.
            for (name, value) in [
                (HEADER_TABLE_SIZE, 0),
                (ENABLE_PUSH, 0),
                (INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX),
            ] {
                settings.extend(u16::to_be_bytes(name));
                settings.extend(u32::to_be_bytes(value));
            }
            http2.frame(SETTINGS, 0, 0, &settings);
            http2.window_update(WINDOW_BYTES_MAX - WINDOW_BYTES);
            http2
        }

        /// Whether the other side lets us send a message of so many bytes.
        pub fn has_room(&self, message_bytes: usize) -> bool {
            self.window >= (MESSAGE_HEADER_BYTES + message_bytes) as i64
        }

        /// Calls a method with this block of headers, if there is room; returns the stream.
        pub fn call(&mut self, headers: &[u8], message: &[u8]) -> u32 {
            let data_bytes = MESSAGE_HEADER_BYTES + message.len();
            self.window -= data_bytes as i64;
            let stream = self.next_stream;
            self.next_stream += 2;
            self.frame(HEADERS, END_HEADERS, stream, headers);
            self.frame_header(data_bytes, DATA, END_STREAM, stream);
            self.out.push(0);
            self.out.extend((message.len() as u32).to_be_bytes());
            self.out.extend(message);
            stream
        }

        /// Takes in what has come, and pushes the calls that have ended with it.
        ///
        /// # Errors
        /// Why the connection is of no more use.
        pub fn receive(&mut self, bytes: &[u8], ended: &mut Vec<Answer>) -> Result<(), String> {
            let mut received = std::mem::take(&mut self.received);
            received.extend_from_slice(bytes);
            let mut rest = received.as_slice();
            while let Some((header, payload)) = rest.split_at_checked(FRAME_HEADER_BYTES) {
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
                let Some((payload, behind)) = payload.split_at_checked(length) else {
                    break;
                };
                let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
                self.take(header[3], header[4], stream & !(1 << 31), payload, ended)?;
                rest = behind;
            }
            let done = received.len() - rest.len();
            received.drain(..done);
            self.received = received;
            Ok(())
        }

        fn take(
            &mut self,
            kind: u8,
            flags: u8,
            stream: u32,
            payload: &[u8],
            ended: &mut Vec<Answer>,
        ) -> Result<(), String> {
            match kind {
                DATA => self.take_data(flags, stream, payload)?,
                HEADERS if flags & END_HEADERS == 0 => {
                    return Err("headers in more than one frame".to_owned());
                }
                HEADERS if flags & END_STREAM != 0 => {
                    ended.push(self.end(stream, is_ok(payload)));
                }
                RST_STREAM => ended.push(self.end(stream, false)),
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => self.frame(PING, ACK, 0, payload),
                WINDOW_UPDATE if stream == 0 => {
                    let more = payload.try_into().map_err(|_| "a bad window update")?;
                    self.window += i64::from(u32::from_be_bytes(more));
                }
                GOAWAY => {
                    let reason = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                    return Err(format!("the server closes the connection: {reason}"));
                }
                CONTINUATION => return Err("a continuation of no headers".to_owned()),
                // The headers before a message, acknowledgements, what is unknown.
                _ => {}
            }
            Ok(())
        }

        fn take_data(&mut self, flags: u8, stream: u32, payload: &[u8]) -> Result<(), String> {
            self.taken_bytes += payload.len() as u32;
            if self.taken_bytes >= WINDOW_STEP_BYTES {
                self.window_update(self.taken_bytes);
                self.taken_bytes = 0;
            }
            let data = if flags & PADDED == 0 {
                payload
            } else {
                let (pad, data) = payload.split_first().ok_or("padding without length")?;
                let end = data.len().checked_sub(usize::from(*pad));
                &data[..end.ok_or("more padding than data")?]
            };
            match self.bodies.iter_mut().find(|(of, _)| *of == stream) {
                Some((_, body)) => body.extend(data),
                None => self.bodies.push((stream, data.to_vec())),
            }
            Ok(())
        }

        fn end(&mut self, stream: u32, is_ok: bool) -> Answer {
            let place = self.bodies.iter().position(|(of, _)| *of == stream);
            let mut body = place.map_or(Vec::new(), |place| self.bodies.swap_remove(place).1);
            body.drain(..body.len().min(MESSAGE_HEADER_BYTES));
            Answer {
                stream,
                is_ok,
                body,
            }
        }

        fn window_update(&mut self, more: u32) {
            self.frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }

        fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
            self.frame_header(payload.len(), kind, flags, stream);
            self.out.extend(payload);
        }

        fn frame_header(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
            self.out.extend(&(length as u32).to_be_bytes()[1..]);
            self.out.extend([kind, flags]);
            self.out.extend(stream.to_be_bytes());
        }
    }

    /// The headers of a call of this method (RFC 7541): numbers of the static table, and
    /// literals that enter no table.
    pub fn headers(path: &str) -> Vec<u8> {
        fn text(block: &mut Vec<u8>, text: &str) {
            block.push(u8::try_from(text.len()).expect("it is short"));
            block.extend(text.as_bytes());
        }
        // :method POST, :scheme http
        let mut block = vec![0x83, 0x86];
        block.push(0x04);
        text(&mut block, path);
        // :authority
        block.push(0x01);
        text(&mut block, "etcd");
        // content-type is number 31: 15 in the prefix, 16 behind it.
        block.extend([0x0f, 0x10]);
        text(&mut block, "application/grpc");
        block.push(0x00);
        text(&mut block, "te");
        text(&mut block, "trailers");
        block
    }

    fn is_ok(trailers: &[u8]) -> bool {
        let has = |part: &[u8]| trailers.windows(part.len()).any(|window| window == part);
        has(STATUS_OK) || has(STATUS_OK_PLAIN)
    }
}

use http2::{Answer, Http2};

/// What is sent, and what is counted.
struct Load {
    op: Op,
    headers: Vec<u8>,
    keys: u64,
    value: Vec<u8>,
    rng: SmallRng,
    /// The next key of a fill.
    next_key: Option<u64>,
    end: Instant,
    latency_ns: Histogram<u64>,
    not_found: u64,
    errors: u64,
}

impl Load {
    fn new(cli: &Cli, end: Instant) -> Load {
        let path = match cli.op {
            Op::Put => "/etcdserverpb.KV/Put",
            Op::Get => "/etcdserverpb.KV/Range",
        };
        Load {
            op: cli.op,
            headers: http2::headers(path),
            keys: cli.keys,
            value: vec![b'v'; cli.value_bytes as usize],
            rng: SmallRng::seed_from_u64(1),
            next_key: cli.fill.then_some(0),
            end,
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS)
                .expect("the bounds are in order"),
            not_found: 0,
            errors: 0,
        }
    }

    /// The next message; `None` if a fill has sent them all.
    fn message(&mut self) -> Option<Vec<u8>> {
        let number = match &mut self.next_key {
            None => self.rng.random_range(0..self.keys),
            Some(next) if *next < self.keys => {
                *next += 1;
                *next - 1
            }
            Some(_) => return None,
        };
        let key = format!("{number:016}").into_bytes();
        Some(match self.op {
            Op::Put => PutRequest {
                key,
                value: self.value.clone(),
            }
            .encode_to_vec(),
            Op::Get => RangeRequest { key }.encode_to_vec(),
        })
    }

    fn count(&mut self, answer: &Answer, took: Duration) {
        if !answer.is_ok {
            self.errors += 1;
            return;
        }
        let is_missing = self.op == Op::Get
            && RangeResponse::decode(answer.body.as_slice()).is_ok_and(|found| found.count == 0);
        self.not_found += u64::from(is_missing);
        self.latency_ns.saturating_record(took.as_nanos() as u64);
    }
}

/// One connection and the calls in flight on it.
struct Lane {
    stream: TcpStream,
    http2: Http2,
    in_flight: Vec<(u32, Instant)>,
    sent_bytes: usize,
}

impl Lane {
    /// Has as many calls in flight as it may, and sends what the socket takes.
    fn send(&mut self, load: &mut Load, pipeline: usize) -> Result<(), String> {
        while self.in_flight.len() < pipeline && Instant::now() < load.end {
            // Not drawn before it can be sent: a fill leaves no key out.
            if !self
                .http2
                .has_room(KEY_BYTES + load.value.len() + MESSAGE_OVERHEAD_BYTES)
            {
                break;
            }
            let Some(message) = load.message() else { break };
            let stream = self.http2.call(&load.headers, &message);
            self.in_flight.push((stream, Instant::now()));
        }
        while self.sent_bytes < self.http2.out.len() {
            match self.stream.write(&self.http2.out[self.sent_bytes..]) {
                Ok(count) => self.sent_bytes += count,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Not connected yet: it becomes writable then.
                Err(e) if e.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(e) => return Err(format!("cannot send: {e}")),
            }
        }
        self.http2.out.clear();
        self.sent_bytes = 0;
        Ok(())
    }

    /// Takes all that has come; returns how many calls have ended.
    fn receive(&mut self, load: &mut Load, buffer: &mut [u8]) -> Result<usize, String> {
        let mut ended = Vec::new();
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err("the server has closed a connection".to_owned()),
                Ok(count) => self.http2.receive(&buffer[..count], &mut ended)?,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    break;
                }
                Err(e) => return Err(format!("cannot receive: {e}")),
            }
        }
        let now = Instant::now();
        for answer in &ended {
            let place = self.in_flight.iter().position(|(s, _)| *s == answer.stream);
            let place = place.ok_or("an answer to no call")?;
            let (_, sent) = self.in_flight.swap_remove(place);
            // What comes after the end was not asked for in the time that counts.
            if now < load.end {
                load.count(answer, now - sent);
            }
        }
        Ok(ended.len())
    }
}

/// Runs until the time is over, or all keys are there.
fn run(load: &mut Load, leader: SocketAddr, cli: &Cli) -> Result<(), String> {
    let failed = |what: &str, e: io::Error| format!("{what}: {e}");
    let mut poll = Poll::new().map_err(|e| failed("poll", e))?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ_BYTES];
    let mut lanes = Vec::new();
    for number in 0..cli.connections as usize {
        let mut stream = TcpStream::connect(leader).map_err(|e| failed("connect", e))?;
        poll.registry()
            .register(
                &mut stream,
                Token(number),
                Interest::READABLE | Interest::WRITABLE,
            )
            .map_err(|e| failed("register", e))?;
        lanes.push(Lane {
            stream,
            http2: Http2::new(),
            in_flight: Vec::new(),
            sent_bytes: 0,
        });
    }
    let mut last_answer = Instant::now();
    loop {
        let left = load.end.saturating_duration_since(Instant::now());
        let is_filled = load.next_key == Some(load.keys);
        if left.is_zero() || (is_filled && lanes.iter().all(|lane| lane.in_flight.is_empty())) {
            return Ok(());
        }
        if last_answer.elapsed() > PATIENCE {
            return Err("no answers any more".to_owned());
        }
        match poll.poll(&mut events, Some(left.min(Duration::from_secs(1)))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            polled => polled.map_err(|e| failed("poll", e))?,
        }
        for event in &events {
            let lane = &mut lanes[event.token().0];
            // Once it is known that it was made: an early write would be no error of ours.
            if event.is_writable() {
                let _ = lane.stream.set_nodelay(true);
            }
            if lane.receive(load, &mut buffer)? > 0 {
                last_answer = Instant::now();
            }
            lane.send(load, cli.pipeline as usize)?;
        }
    }
}

/// Whether the node at this address leads.
fn leads(addr: SocketAddr) -> Result<bool, String> {
    let failed = |e: io::Error| e.to_string();
    let limit = Duration::from_secs(1);
    let mut stream = std::net::TcpStream::connect_timeout(&addr, limit).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    let mut http2 = Http2::new();
    let headers = http2::headers("/etcdserverpb.Maintenance/Status");
    http2.call(&headers, &StatusRequest {}.encode_to_vec());
    let (mut ended, mut buffer) = (Vec::new(), [0; 4096]);
    while ended.is_empty() {
        stream.write_all(&http2.out).map_err(failed)?;
        http2.out.clear();
        let count = stream.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Err("closed".to_owned());
        }
        http2.receive(&buffer[..count], &mut ended)?;
    }
    if !ended[0].is_ok {
        return Err("refused".to_owned());
    }
    let status = StatusResponse::decode(ended[0].body.as_slice()).map_err(|e| e.to_string())?;
    Ok(status.leader != 0
        && status
            .header
            .is_some_and(|own| own.member_id == status.leader))
}

fn find_leader(addrs: &[SocketAddr]) -> Result<SocketAddr, String> {
    let begin = Instant::now();
    loop {
        let asked: Vec<_> = addrs.iter().map(|addr| (*addr, leads(*addr))).collect();
        if let Some((addr, _)) = asked.iter().find(|(_, leads)| *leads == Ok(true)) {
            return Ok(*addr);
        }
        if begin.elapsed() > PATIENCE {
            return Err(format!("no node leads: {asked:?}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn load(cli: &Cli) -> Result<(), String> {
    let mut addrs = Vec::new();
    for addr in &cli.addrs {
        let found = addr.to_socket_addrs();
        addrs.extend(found.map_err(|e| format!("bad address `{addr}`: {e}"))?);
    }
    let seconds = Duration::try_from_secs_f64(cli.seconds).map_err(|e| e.to_string())?;
    let leader = find_leader(&addrs)?;
    let _ = raftkv::net::raise_fd_limit();
    let begin = Instant::now();
    let mut load = Load::new(cli, begin + seconds);
    run(&mut load, leader, cli)?;
    let elapsed = begin.elapsed().min(seconds).as_secs_f64();
    let latency_ns = &load.latency_ns;
    let micros = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e3;
    let json = serde_json::json!({
        "operations": latency_ns.len(),
        "per_second": latency_ns.len() as f64 / elapsed,
        "p50_us": micros(0.5),
        "p99_us": micros(0.99),
        "p999_us": micros(0.999),
        "not_found": load.not_found,
        "errors": load.errors,
    });
    println!("{json}");
    Ok(())
}

fn main() -> ExitCode {
    match load(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("etcd_load: {reason}");
            ExitCode::from(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::http2::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// What a server of etcd has sent in answer to a put: headers, message, trailers.
    fn answer(stream: u32, trailers: &[u8]) -> Vec<u8> {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, b"\x88");
        bytes.extend(frame(DATA, 0, stream, b"\0\0\0\0\x02ab"));
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers));
        bytes
    }

    fn connected() -> Http2 {
        let mut http2 = Http2::new();
        http2.out.clear();
        http2
    }

    const OK: &[u8] = b"\x00\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x010\x00\x89\x9a\xca\xc8\xb5\x25\x42\x07\x31\x7f\x00";
    const UNAVAILABLE: &[u8] = b"\x00\x88\x9a\xca\xc8\xb2\x12\x34\xda\x8f\x0214";

    #[test]
    fn an_answer_is_taken_in_pieces_of_any_size() {
        let bytes = answer(1, OK);
        for size in [1, 2, 7, bytes.len()] {
            let (mut http2, mut ended) = (connected(), Vec::new());
            assert_eq!(http2.call(&headers("/a"), b"x"), 1);
            for piece in bytes.chunks(size) {
                http2.receive(piece, &mut ended).unwrap();
            }
            let expected = Answer {
                stream: 1,
                is_ok: true,
                body: b"ab".to_vec(),
            };
            assert_eq!(ended, [expected]);
        }
    }

    #[test]
    fn calls_end_in_any_order_and_failures_are_told_apart() {
        let (mut http2, mut ended) = (connected(), Vec::new());
        let streams = [(); 3].map(|()| http2.call(&headers("/a"), b"x"));
        assert_eq!(streams, [1, 3, 5]);
        let mut bytes = answer(5, OK);
        bytes.extend(answer(1, UNAVAILABLE));
        bytes.extend(frame(RST_STREAM, 0, 3, &[0, 0, 0, 7]));
        http2.receive(&bytes, &mut ended).unwrap();
        let ended: Vec<_> = ended.iter().map(|a| (a.stream, a.is_ok)).collect();
        assert_eq!(ended, [(5, true), (1, false), (3, false)]);
    }

    #[test]
    fn settings_and_pings_are_acknowledged() {
        let (mut http2, mut ended) = (connected(), Vec::new());
        http2
            .receive(&frame(SETTINGS, 0, 0, &[]), &mut ended)
            .unwrap();
        http2
            .receive(&frame(PING, 0, 0, b"12345678"), &mut ended)
            .unwrap();
        http2
            .receive(&frame(SETTINGS, ACK, 0, &[]), &mut ended)
            .unwrap();
        let mut expected = frame(SETTINGS, ACK, 0, &[]);
        expected.extend(frame(PING, ACK, 0, b"12345678"));
        assert_eq!(http2.out, expected);
    }

    #[test]
    fn the_window_of_the_other_side_is_kept() {
        let (mut http2, mut ended) = (connected(), Vec::new());
        let message = [0; 10_000];
        let send_all = |http2: &mut Http2| {
            let mut count = 0;
            while http2.has_room(message.len()) {
                http2.call(&headers("/a"), &message);
                count += 1;
            }
            count
        };
        assert_eq!(send_all(&mut http2), 6, "65,535 bytes hold six of 10,005");
        let more = frame(WINDOW_UPDATE, 0, 0, &20_000_u32.to_be_bytes());
        http2.receive(&more, &mut ended).unwrap();
        assert_eq!(send_all(&mut http2), 2);
    }

    #[test]
    fn a_server_that_goes_away_is_an_error() {
        let mut http2 = connected();
        let goaway = frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0btoo many");
        let error = http2.receive(&goaway, &mut Vec::new()).unwrap_err();
        assert!(error.contains("too many"), "{error}");
    }

    #[test]
    fn the_headers_name_method_path_and_type() {
        let block = headers("/etcdserverpb.KV/Put");
        assert_eq!(block[..4], [0x83, 0x86, 0x04, 20]);
        let has = |part: &[u8]| block.windows(part.len()).any(|window| window == part);
        assert!(has(b"\x0f\x10\x10application/grpc"));
        assert!(has(b"\0\x02te\x08trailers"));
    }
}
