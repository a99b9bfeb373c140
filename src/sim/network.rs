//! The simulated network: it loses, delays, repeats and reorders, can be cut between any
//! two nodes, one way or both, and can hold back what a link carries.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::sim::plan::Plan;
use crate::time::Time;

/// Mean delays are at most this once faults have stopped.
const CALM_DELAY: Duration = Duration::from_millis(1);

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// How many faults have cut it: it carries nothing while there is one.
    cuts: u32,
    /// Until when it holds back what it carries, to deliver all of it then.
    clogged_until: Time,
    /// When what it was given last arrives, unless something overtakes it.
    last: Time,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Network {
    /// Probabilities, in 1/1000.
    loss: u32,
    repeat: u32,
    overtake: u32,
    delay: Duration,
    /// How many ends there are: the nodes, and the outside where the clients are.
    ends: u64,
    links: Vec<Link>,
    /// Counts the calms: what was cut before one is not mended after it.
    epoch: u64,
}

/// Links that one fault has cut, to be mended together.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    epoch: u64,
    links: Vec<(u64, u64)>,
}

impl Network {
    pub(super) fn new(plan: &Plan) -> Network {
        let ends = plan.nodes + 1;
        Network {
            loss: plan.loss,
            repeat: plan.repeat,
            overtake: plan.overtake,
            delay: plan.delay,
            ends,
            links: vec![Link::default(); (ends * ends) as usize],
            epoch: 0,
        }
    }

    fn link(&mut self, from: u64, to: u64) -> &mut Link {
        &mut self.links[(from * self.ends + to) as usize]
    }

    /// When the copies of a message arrive; none if it is lost.
    pub(super) fn arrivals(
        &mut self,
        rng: &mut StdRng,
        now: Time,
        from: u64,
        to: u64,
    ) -> [Option<Time>; 2] {
        let (loss, repeat, overtake, delay) = (self.loss, self.repeat, self.overtake, self.delay);
        let link = self.link(from, to);
        if link.cuts > 0 || rng.random_range(0..1000) < loss {
            return [None, None];
        }
        let mut arrives = (now + draw_delay(rng, delay)).max(link.clogged_until);
        if overtake == 0 || rng.random_range(0..1000) >= overtake {
            arrives = arrives.max(link.last);
            link.last = arrives;
        }
        let again = (repeat > 0 && rng.random_range(0..1000) < repeat)
            .then(|| arrives + draw_delay(rng, delay) * 2);
        [Some(arrives), again]
    }

    /// Cuts links, each in the one direction that is named.
    pub(super) fn cut(&mut self, links: Vec<(u64, u64)>) -> Cut {
        for (from, to) in &links {
            self.link(*from, *to).cuts += 1;
        }
        let epoch = self.epoch;
        Cut { epoch, links }
    }

    /// Mends what was cut, but for what others have cut too.
    pub(super) fn mend(&mut self, cut: Cut) {
        if cut.epoch == self.epoch {
            for (from, to) in cut.links {
                self.link(from, to).cuts -= 1;
            }
        }
    }

    /// Holds back what this link carries until then.
    pub(super) fn clog(&mut self, from: u64, to: u64, until: Time) {
        let link = self.link(from, to);
        link.clogged_until = link.clogged_until.max(until);
    }

    /// From now on nothing goes wrong any more.
    pub(super) fn calm(&mut self) {
        self.links.fill(Link::default());
        self.epoch += 1;
        self.loss = 0;
        self.repeat = 0;
        self.delay = self.delay.min(CALM_DELAY);
    }
}

/// A time around `mean`, now and then much longer.
pub(super) fn draw_delay(rng: &mut StdRng, mean: Duration) -> Duration {
    let long = if rng.random_range(0..100) == 0 { 10 } else { 1 };
    mean.mul_f64(rng.random_range(0.1..2.0)) * long
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// A network that does nothing but delay, at most by this.
    fn network() -> Network {
        let mut plan = Plan::draw(1);
        plan.nodes = 2;
        (plan.loss, plan.repeat, plan.overtake) = (0, 0, 0);
        plan.delay = Duration::from_millis(1);
        Network::new(&plan)
    }

    #[test]
    fn a_clogged_link_delivers_all_of_it_late_and_in_order() {
        let mut network = network();
        let mut rng = StdRng::seed_from_u64(3);
        let (now, until) = (Time::from_millis(10), Time::from_millis(3_000));
        network.clog(0, 1, until);
        let mut arrivals = || network.arrivals(&mut rng, now, 0, 1)[0];
        let mut before = until;
        for _ in 0..100 {
            let at = arrivals().expect("nothing is lost");
            assert!(at >= before);
            before = at;
        }
        let [there, _] = network.arrivals(&mut rng, now, 1, 0);
        assert!(
            there.expect("nothing is lost") < until,
            "the other way is free"
        );
    }

    #[test]
    fn a_link_that_two_faults_have_cut_carries_again_when_both_are_over() {
        let mut network = network();
        let mut rng = StdRng::seed_from_u64(3);
        let first = network.cut(vec![(0, 1), (1, 0)]);
        let second = network.cut(vec![(0, 1)]);
        let mut carries = |network: &mut Network, from, to| {
            network.arrivals(&mut rng, Time::ZERO, from, to)[0].is_some()
        };
        network.mend(first);
        assert!(carries(&mut network, 1, 0) && !carries(&mut network, 0, 1));
        network.mend(second);
        assert!(carries(&mut network, 0, 1));
    }

    #[test]
    fn what_was_cut_before_a_calm_is_not_mended_after_it() {
        let mut network = network();
        let mut rng = StdRng::seed_from_u64(3);
        let old = network.cut(vec![(0, 1)]);
        network.calm();
        let _new = network.cut(vec![(0, 1)]);
        network.mend(old);
        assert_eq!(network.arrivals(&mut rng, Time::ZERO, 0, 1), [None, None]);
    }
}
