//! Faults of what clawsec stands on: the gateway behind it, descriptors, memory, docker, files, the
//! clock. Each test says what must hold meanwhile and what must be again afterwards.

mod clock;
mod docker;
mod liar;
mod resources;
mod upstream;
