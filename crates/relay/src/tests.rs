//! The relay's guarantees, in memory and on tokio's paused clock.

mod buses;
mod publishing;
mod scale;
mod sharing;
mod streams;
mod traces;
mod world;
