//! Memory: the tiered pool, and the buffers that cross threads.

mod buffer;

pub use buffer::Buffer;
