//! oyez listens, accepts and serves: the whole way from a socket to a handler.
//!
//! The C boundary is `src/capi/`, described in `include/oyez.h`. What lies below it is usable from Rust as well:
//! [`listen::listen`], [`accept::accept`] and [`serve::Server`].
//!
//! Dependencies point one way: capi, check and serve, accept and listen, diagnose, address and error, and the system
//! at the bottom.
#![cfg(target_os = "linux")]

pub mod accept;
pub mod address;
#[doc(hidden)]
pub mod capi;
pub mod check;
pub mod deadline;
mod diagnose;
pub mod error;
pub mod listen;
pub mod serve;
pub mod stream;
mod sys;
pub mod text;
