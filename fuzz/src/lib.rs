//! What the targets in `src/bin/` share. Each of them is given bytes by libFuzzer and panics where a promise of oyez is
//! not kept.

pub mod calls;
pub mod failure;
pub mod guarded;
pub mod header;
pub mod input;
pub mod leftovers;
pub mod structs;
