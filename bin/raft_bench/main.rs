//! Closed-loop load on a cluster: so many connections to the leader, so many requests
//! in flight on each, the next as soon as one is answered.
//!
//! Built on the project's own client code and event loop, in one thread. What it
//! measures of the servers (CPU, syncs) it takes from the processes' own accounts.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use raftkv::client::protocol::{self, Answer, Identity, Operation};
use raftkv::client::{Outcome, status_of};
use raftkv::config::Cluster;
use raftkv::net::{
    CloseReason, ConnectionId, ConnectorId, EventLoop, Handler, Io, Options, TimerId,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Closed-loop load on the leader of a cluster, and what it costs
#[derive(Clone, Debug, Parser)]
#[command(version)]
struct Args {
    /// Client addresses of nodes; the leader among them is loaded [default: the default cluster]
    #[arg(long = "addr", value_name = "HOST:PORT")]
    addrs: Vec<SocketAddr>,
    /// What is asked for
    #[arg(long, value_enum, default_value = "update")]
    op: Op,
    /// Connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    connections: u32,
    /// Requests in flight on each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pipeline: u32,
    /// How long is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How long before that is not measured
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Keys, of 16 bytes, drawn evenly
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Processes whose CPU time is counted, the leader's first
    #[arg(long = "server-pid", value_name = "PID")]
    pids: Vec<u32>,
    /// One line of JSON instead of the table
    #[arg(long)]
    json: bool,
}

/// Longer latencies count as this: a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Op {
    /// Inserts or overwrites
    Update,
    /// Linearizable reads
    Get,
    /// Half of each
    Mixed,
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.addrs.is_empty() {
        args.addrs = Cluster::default()
            .members()
            .iter()
            .map(|m| m.client)
            .collect();
    }
    match bench(&args) {
        Ok(result) => {
            if args.json {
                println!("{}", result.json(&args));
            } else {
                println!("{}", result.line(&args));
            }
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("raft_bench: {reason}");
            ExitCode::from(3)
        }
    }
}

/// What a run came to.
struct Measured {
    seconds: f64,
    latency_ns: Histogram<u64>,
    errors: u64,
    syncs: u64,
    /// CPU seconds of each server process.
    servers: Vec<f64>,
    /// CPU seconds of this process.
    own: f64,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.latency_ns.len() as f64 / self.seconds
    }

    fn micros(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    /// CPU microseconds for each operation.
    fn cost(&self, seconds: f64) -> f64 {
        seconds * 1e6 / (self.latency_ns.len().max(1) as f64)
    }

    fn line(&self, args: &Args) -> String {
        let servers: f64 = self.servers.iter().sum();
        format!(
            "{:?} connections={} pipeline={}: {:.0}/s p50={:.0} us p99={:.0} us p99.9={:.0} us \
             max={:.0} us errors={} operations/sync={:.1} \
             cpu/operation: leader {:.1} us, servers {:.1} us, generator {:.1} us",
            args.op,
            args.connections,
            args.pipeline,
            self.per_second(),
            self.micros(0.5),
            self.micros(0.99),
            self.micros(0.999),
            self.micros(1.0),
            self.errors,
            self.latency_ns.len() as f64 / self.syncs.max(1) as f64,
            self.cost(self.servers.first().copied().unwrap_or(0.0)),
            self.cost(servers),
            self.cost(self.own),
        )
    }

    fn json(&self, args: &Args) -> String {
        let servers: f64 = self.servers.iter().sum();
        serde_json::json!({
            "op": format!("{:?}", args.op).to_lowercase(),
            "connections": args.connections,
            "pipeline": args.pipeline,
            "value_bytes": args.value_bytes,
            "keys": args.keys,
            "seconds": self.seconds,
            "operations": self.latency_ns.len(),
            "per_second": self.per_second(),
            "p50_us": self.micros(0.5),
            "p99_us": self.micros(0.99),
            "p999_us": self.micros(0.999),
            "max_us": self.micros(1.0),
            "errors": self.errors,
            "leader_syncs": self.syncs,
            "leader_cpu_us": self.cost(self.servers.first().copied().unwrap_or(0.0)),
            "servers_cpu_us": self.cost(servers),
            "generator_cpu_us": self.cost(self.own),
        })
        .to_string()
    }
}

fn bench(args: &Args) -> Result<Measured, String> {
    let leader = find_leader(&args.addrs)?;
    let mut event_loop = EventLoop::new(Options::default()).map_err(|e| e.to_string())?;
    let mut load = Load::new(args.clone(), leader)?;
    event_loop.run(&mut load).map_err(|e| e.to_string())?;
    load.finish()
}

fn find_leader(addrs: &[SocketAddr]) -> Result<SocketAddr, String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let nodes = status_of(addrs, Duration::from_secs(1));
        let leader = nodes
            .iter()
            .find(|node| node.status.as_ref().is_ok_and(|s| s.role == "leader"));
        if let Some(leader) = leader {
            return Ok(leader.addr);
        }
        if Instant::now() > deadline {
            return Err("no leader found; is the cluster running?".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn syncs_of(leader: SocketAddr) -> Result<u64, String> {
    let nodes = status_of(&[leader], Duration::from_secs(5));
    nodes[0]
        .status
        .as_ref()
        .map(|status| status.syncs)
        .map_err(Clone::clone)
}

/// CPU seconds that a process has used, user and system.
fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |place: usize| fields.get(place).and_then(|f| f.parse::<f64>().ok());
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        return Err(format!("{path}: not understood"));
    };
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

/// The accounts at one moment.
struct Accounts {
    at: Instant,
    syncs: u64,
    servers: Vec<f64>,
    own: f64,
}

impl Accounts {
    fn take(args: &Args, leader: SocketAddr) -> Result<Accounts, String> {
        Ok(Accounts {
            at: Instant::now(),
            syncs: syncs_of(leader)?,
            servers: args
                .pids
                .iter()
                .map(|pid| cpu_seconds(*pid))
                .collect::<Result<_, _>>()?,
            own: cpu_seconds(std::process::id())?,
        })
    }
}

/// One connection.
struct Lane {
    uuid: String,
    next_sequence: u64,
    in_flight: HashMap<u64, (Operation, Instant)>,
}

/// The load, as the handler of an event loop.
struct Load {
    args: Args,
    leader: SocketAddr,
    value: Bytes,
    rng: StdRng,
    lanes: HashMap<ConnectionId, Lane>,
    latency_ns: Histogram<u64>,
    errors: u64,
    begin: Option<TimerId>,
    end: Option<TimerId>,
    progress: Option<TimerId>,
    first: Option<Accounts>,
    last: Option<Accounts>,
    failure: Option<String>,
}

impl Load {
    fn new(args: Args, leader: SocketAddr) -> Result<Load, String> {
        let mut rng = StdRng::seed_from_u64(1);
        let value: Vec<u8> = (0..args.value_bytes).map(|_| rng.random()).collect();
        Ok(Load {
            leader,
            value: value.into(),
            rng,
            lanes: HashMap::new(),
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .map_err(|e| e.to_string())?,
            errors: 0,
            begin: None,
            end: None,
            progress: None,
            first: None,
            last: None,
            failure: None,
            args,
        })
    }

    fn finish(self) -> Result<Measured, String> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return Err("ended before anything was measured".to_owned());
        };
        Ok(Measured {
            seconds: (last.at - first.at).as_secs_f64(),
            latency_ns: self.latency_ns,
            errors: self.errors,
            syncs: last.syncs - first.syncs,
            servers: last
                .servers
                .iter()
                .zip(&first.servers)
                .map(|(b, a)| b - a)
                .collect(),
            own: last.own - first.own,
        })
    }

    fn fail(&mut self, io: &mut Io, why: String) {
        self.failure.get_or_insert(why);
        io.stop();
    }

    fn send_next(&mut self, io: &mut Io, connection: ConnectionId) {
        let key = Bytes::from(format!("{:016}", self.rng.random_range(0..self.args.keys)));
        let write = match self.args.op {
            Op::Update => true,
            Op::Get => false,
            Op::Mixed => self.rng.random_bool(0.5),
        };
        let operation = if write {
            Operation::Update {
                key,
                value: self.value.clone(),
            }
        } else {
            Operation::Get { key }
        };
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return;
        };
        let sequence = lane.next_sequence;
        lane.next_sequence += 1;
        let identity = Identity::Uuid(lane.uuid.clone());
        io.send_with(connection, |out| {
            protocol::encode_operation(out, sequence, &operation, &identity);
        });
        lane.in_flight.insert(sequence, (operation, Instant::now()));
    }

    fn take_answer(&mut self, connection: ConnectionId, body: Bytes) -> Result<(), String> {
        let reply = protocol::decode_reply(body).map_err(|e| e.to_string())?;
        let lane = self
            .lanes
            .get_mut(&connection)
            .ok_or("an answer on no connection")?;
        let (operation, sent) = lane
            .in_flight
            .remove(&reply.sequence_id)
            .ok_or("an answer that nobody asked for")?;
        let measured = self.first.is_some();
        match protocol::decode_answer(&operation, reply.payload)? {
            Answer::Redirect(to) => return Err(format!("the leader has changed: {to}")),
            _ if !measured => {}
            Answer::Outcome(Outcome::Done | Outcome::Value(_) | Outcome::NotFound) => {
                let nanos = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.latency_ns.saturating_record(nanos);
            }
            _ => self.errors += 1,
        }
        Ok(())
    }
}

impl Handler for Load {
    fn on_start(&mut self, io: &mut Io) {
        for _ in 0..self.args.connections {
            io.connect(self.leader);
        }
        let now = Instant::now();
        let begin = now + Duration::from_secs_f64(self.args.warm_up);
        self.begin = Some(io.set_timer(begin));
        self.end = Some(io.set_timer(begin + Duration::from_secs_f64(self.args.seconds)));
        self.progress = Some(io.set_timer(now + Duration::from_secs(1)));
    }

    fn on_connected(&mut self, io: &mut Io, _connector: ConnectorId, connection: ConnectionId) {
        let lane = Lane {
            uuid: uuid::Uuid::new_v4().to_string(),
            next_sequence: 1,
            in_flight: HashMap::new(),
        };
        self.lanes.insert(connection, lane);
        for _ in 0..self.args.pipeline {
            self.send_next(io, connection);
        }
    }

    fn on_frame(&mut self, io: &mut Io, connection: ConnectionId, body: Bytes) {
        match self.take_answer(connection, body) {
            Ok(()) => self.send_next(io, connection),
            Err(why) => self.fail(io, why),
        }
    }

    fn on_close(&mut self, io: &mut Io, connection: ConnectionId, reason: CloseReason) {
        if self.lanes.remove(&connection).is_some() {
            self.fail(io, format!("the leader has closed a connection: {reason}"));
        }
    }

    fn on_timer(&mut self, io: &mut Io, timer: TimerId) {
        if self.progress == Some(timer) {
            if std::io::stderr().is_terminal() {
                eprint!("\r{} answers …", self.latency_ns.len());
                let _ = std::io::stderr().flush();
            }
            self.progress = Some(io.set_timer(Instant::now() + Duration::from_secs(1)));
            return;
        }
        let accounts = match Accounts::take(&self.args, self.leader) {
            Ok(accounts) => accounts,
            Err(why) => return self.fail(io, why),
        };
        if self.begin == Some(timer) {
            self.first = Some(accounts);
        } else if self.end == Some(timer) {
            if std::io::stderr().is_terminal() {
                eprint!("\r");
            }
            self.last = Some(accounts);
            io.stop();
        }
    }
}
