//! Nothing; without a build script, build dependencies ask for nothing.

fn main() {}
