//! Podwire beside everything that a user would pick instead, on one machine, in one run.

mod aead_floor;
mod contestant;
mod implementation;
mod load;
mod machine;
mod measure;
mod null_cipher;
mod programs;
mod sample;
mod statistics;
mod take;
mod uapi;
mod window;

fn main() {}
