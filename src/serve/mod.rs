//! Servers: from listeners to handlers, and a stop that loses nobody.
//!
//! One loop accepts, for every model, and looks after what nobody else does: connections that linger, children that
//! end, a shortage of descriptors, a stop. Handlers run elsewhere: on the [`pool`]'s threads, in [`children`], or
//! between two turns of the loop. A server that a program accepts from by hand has no loop of its own; its turns are
//! taken by the calls on it.

mod acceptor;
mod admission;
mod by_hand;
mod children;
mod connection;
mod counters;
mod episodes;
mod events;
mod exposition;
mod linger;
mod listeners;
mod log;
mod options;
mod pool;
mod queues;
mod registry;
mod run;
mod server;
mod signals;
mod sink;
mod stop;
mod table;
mod token;
mod transfer;

pub use admission::{Limits, MaxConnections, Rate, RuleFault, Rules, Source};
pub use connection::Connection;
pub use counters::Snapshot;
pub use events::{Events, OnClose, OnConnection, OnData};
pub use log::{Level, Log};
pub use options::{Backend, Model, Options};
pub use registry::ServerId;
pub use server::{Handler, Server};
pub use table::ConnectionId;

use crate::error::Result;
use crate::listen;

/// Serves at these addresses until stopped and drained.
pub fn serve(addresses: &[u8], handler: Handler, options: Options) -> Result<()> {
    let id = Server::create(Some(handler), options)?;
    let served = Server::find(id, "oyez_serve").and_then(|server| {
        server.listen(addresses, &listen::Options::default())?;
        Server::run(&server)
    });
    let closed = Server::close(id);
    served.and(closed)
}
