//! Loopback ports that stay ours while the processes that listen on them come and go.
//!
//! A port that the kernel hands out for `bind(0)` may be handed out again, as the source of any
//! connection, while the node that listened on it is down: its restart then fails once in a while. So
//! ports are taken from below the range that the kernel uses for that, and kept from other tests by
//! a UDP socket on the same number, which disturbs no TCP listener.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// The lowest port that is tried: above those of services and of the default cluster.
const LOWEST: u16 = 12_000;
/// The lowest port that the kernel hands out, if it does not say.
const EPHEMERAL_DEFAULT: u16 = 32_768;

/// Ports of this test until it is dropped.
#[derive(Debug)]
pub struct Ports {
    addresses: Vec<SocketAddr>,
    _reservations: Vec<UdpSocket>,
}

impl Ports {
    /// Reserves so many.
    pub fn reserve(count: usize) -> Ports {
        let highest = ephemeral_start();
        let span = u32::from(highest - LOWEST);
        // Start somewhere else in each process, so that few tries are needed.
        let start = std::process::id().wrapping_mul(97) % span;
        let mut ports = Ports {
            addresses: Vec::new(),
            _reservations: Vec::new(),
        };
        for step in 0..span {
            let port = LOWEST + ((start + step) % span) as u16;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let (Ok(reservation), Ok(_)) = (UdpSocket::bind(address), TcpListener::bind(address))
            else {
                continue;
            };
            ports.addresses.push(address);
            ports._reservations.push(reservation);
            if ports.addresses.len() == count {
                return ports;
            }
        }
        panic!("no {count} free ports between {LOWEST} and {highest}");
    }

    /// The addresses.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn ephemeral_start() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|start| *start > LOWEST + 1_000)
        .unwrap_or(EPHEMERAL_DEFAULT)
}
