//! What the relay promises, over the world in memory and tokio's paused clock.

mod buses;
mod publishing;
mod sharing;
mod streams;
mod traces;
mod world;
