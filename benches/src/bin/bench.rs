//! `bench`.

fn main() {}
