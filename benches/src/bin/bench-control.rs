//! `bench-control`.

fn main() {}
