//! `bench-load`.

fn main() {}
