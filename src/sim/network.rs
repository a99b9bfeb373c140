//! The simulated network: it loses, delays, repeats and reorders, and can be cut
//! between any two nodes, one way or both.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    loss: u32,
    repeat: u32,
    delay: Duration,
    /// Links that carry nothing, by direction.
    cut: BTreeSet<(u64, u64)>,
}

impl Network {
    pub(super) fn new(loss: u32, repeat: u32, delay: Duration) -> Network {
        Network {
            loss,
            repeat,
            delay,
            cut: BTreeSet::new(),
        }
    }

    /// When the copies of a message arrive, counted from now; none if it is lost.
    pub(super) fn deliveries(&self, rng: &mut StdRng, from: u64, to: u64) -> Vec<Duration> {
        if self.cut.contains(&(from, to)) || rng.random_range(0..1000) < self.loss {
            return Vec::new();
        }
        let mut deliveries = vec![draw_delay(rng, self.delay)];
        if rng.random_range(0..1000) < self.repeat {
            deliveries.push(draw_delay(rng, self.delay) * 3);
        }
        deliveries
    }

    /// Cuts the links of `from` to `to`, this way only.
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    /// Mends all links.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// From now on nothing goes wrong any more.
    pub(super) fn calm(&mut self) {
        self.heal();
        self.loss = 0;
        self.repeat = 0;
        self.delay = self.delay.min(Duration::from_millis(1));
    }
}

/// A time around `mean`, now and then much longer.
pub(super) fn draw_delay(rng: &mut StdRng, mean: Duration) -> Duration {
    let long = if rng.random_range(0..100) == 0 { 10 } else { 1 };
    mean.mul_f64(rng.random_range(0.1..2.0)) * long
}
