//! Links between nodes that a test can break, whatever they are made of.

/// The links between the nodes of a cluster.
pub trait Links {
    /// What `from` sends does not arrive at `to` from now on.
    fn lose(&mut self, from: usize, to: usize);

    /// A node is cut off from everyone, clients too.
    fn cut_off(&mut self, node: usize);

    /// All links are as new.
    fn heal(&mut self);
}
