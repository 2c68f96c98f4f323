//! See the target of this name.
#![no_main]

mesh_fuzz::target!("talk");
