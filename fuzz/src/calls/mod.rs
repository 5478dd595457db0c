//! Every function of the header, called from several threads with handles that are fresh, gone, or never were.

pub mod serving;
pub mod table;
pub mod world;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::input::Input;
use crate::leftovers::Leftovers;
use world::World;

/// How many threads call, and how many calls each of them makes at most.
const THREADS: usize = 3;
const CALLS: usize = 24;

/// After so long whoever still waits is made to end, and so much later that has to be done.
const WHILE: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(8);

/// A part of the input for each thread, one for the handlers, and all of it is over when this returns.
pub fn run(bytes: &[u8]) {
    let mut parts: Vec<Vec<u8>> = bytes.split(|&byte| byte == b'\n').take(THREADS + 1).map(<[u8]>::to_vec).collect();
    parts.resize(THREADS + 1, Vec::new());
    let script = parts.pop().unwrap_or_default();
    let before = Leftovers::now();
    let world = Arc::new(World::new(script));
    let threads: Vec<_> = parts.into_iter().map(|part| start(Arc::clone(&world), part)).collect();
    let begun = Instant::now();
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        if begun.elapsed() > WHILE {
            world.end_what_waits();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "a call does not end, though every server is stopped: {:?}",
            world.under_way()
        );
        thread::sleep(Duration::from_micros(if begun.elapsed() > WHILE { 2000 } else { 200 }));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    world.close_everything();
    before.assert_none();
    world.check_counts();
}

fn start(world: Arc<World>, part: Vec<u8>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut input = Input(&part);
        for _ in 0..CALLS {
            if input.is_empty() || world.is_ending() {
                return;
            }
            table::call_one(&world, &mut input);
        }
    })
}
