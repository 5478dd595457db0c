//! When connections are due: a wheel of slots, each a list of places through the connections themselves.
//!
//! A connection is on one list, that of its next possible end. What it does meanwhile only changes numbers that are
//! looked at when the time comes, so that a message costs nothing here.

/// The place of no connection.
pub const NOWHERE: u32 = u32::MAX;

/// Milliseconds of one tick.
pub const TICK_MS: u64 = 32;

const SLOTS: usize = 1024;
const WORDS: usize = SLOTS / 64;

/// Where a connection is linked. What is not linked has no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    next: u32,
    previous: u32,
    /// The tick at which it is looked at; `NEVER` where it is on no list.
    pub due: u32,
}

/// No tick.
pub const NEVER: u32 = u32::MAX;

impl Default for Link {
    fn default() -> Self {
        Self { next: NOWHERE, previous: NOWHERE, due: NEVER }
    }
}

/// Where the links are.
pub trait Links {
    /// The link of the connection at a place.
    fn link(&mut self, place: u32) -> Option<&mut Link>;
}

/// The wheel.
#[derive(Debug)]
pub struct Wheel {
    /// The first connection of each slot's list.
    first: Vec<u32>,
    /// Which slots have a list.
    used: [u64; WORDS],
    /// All ticks up to this one have been looked at.
    looked: u32,
    /// How many connections are on a list.
    count: u32,
}

impl Wheel {
    /// An empty wheel that begins at a tick; `None` without memory.
    pub fn new(now: u32) -> Option<Self> {
        let mut first = Vec::new();
        first.try_reserve_exact(SLOTS).ok()?;
        first.resize(SLOTS, NOWHERE);
        Some(Self { first, used: [0; WORDS], looked: now, count: 0 })
    }

    /// Whether no connection is on a list.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Time has passed in which no connection was on a list.
    pub fn catch_up(&mut self, now: u32) {
        if self.count == 0 {
            self.looked = self.looked.max(now);
        }
    }

    /// Has a connection looked at in that tick, or earlier where the wheel does not reach so far.
    pub fn put(&mut self, links: &mut impl Links, place: u32, due: u32) {
        self.take(links, place);
        let farthest = self.looked.saturating_add(SLOTS as u32 - 1);
        let due = due.clamp(self.looked.saturating_add(1), farthest);
        let slot = due as usize % SLOTS;
        let Some(first) = self.first.get_mut(slot) else { return };
        let next = std::mem::replace(first, place);
        if let Some(link) = links.link(next) {
            link.previous = place;
        }
        if let Some(link) = links.link(place) {
            *link = Link { next, previous: NOWHERE, due };
            self.count += 1;
        }
        self.mark(slot, true);
    }

    /// Takes a connection off its list.
    pub fn take(&mut self, links: &mut impl Links, place: u32) {
        let Some(link) = links.link(place) else { return };
        let Link { next, previous, due } = std::mem::take(link);
        if due == NEVER {
            return;
        }
        self.count -= 1;
        if let Some(link) = links.link(next) {
            link.previous = previous;
        }
        match links.link(previous) {
            Some(link) => link.next = next,
            None => {
                let slot = due as usize % SLOTS;
                if let Some(first) = self.first.get_mut(slot) {
                    *first = next;
                }
                self.mark(slot, next != NOWHERE);
            }
        }
    }

    /// The next connection that is due at `now`, taken off its list.
    pub fn next_due(&mut self, links: &mut impl Links, now: u32) -> Option<u32> {
        let tick = self.next_tick().filter(|&tick| tick <= now);
        let Some(tick) = tick else {
            self.looked = self.looked.max(now);
            return None;
        };
        self.looked = self.looked.max(tick.saturating_sub(1));
        let place = self.first.get(tick as usize % SLOTS).copied()?;
        self.take(links, place);
        Some(place)
    }

    /// Whether something is due at `now`.
    pub fn is_due(&mut self, now: u32) -> bool {
        let is_due = self.next_tick().is_some_and(|tick| tick <= now);
        if !is_due {
            self.looked = self.looked.max(now);
        }
        is_due
    }

    /// The next tick at which something is due.
    pub fn next_tick(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let start = self.looked.saturating_add(1);
        let offset = start as usize % SLOTS;
        // The word of the first slot is looked at twice: its upper part first, its lower part last.
        (0..=WORDS).find_map(|step| {
            let index = (offset / 64 + step) % WORDS;
            let mask = match step {
                0 => u64::MAX << (offset % 64),
                WORDS => !(u64::MAX << (offset % 64)),
                _ => u64::MAX,
            };
            let word = self.used.get(index).copied().unwrap_or(0) & mask;
            if word == 0 {
                return None;
            }
            let slot = index * 64 + word.trailing_zeros() as usize;
            Some(start.saturating_add(((slot + SLOTS - offset) % SLOTS) as u32))
        })
    }

    fn mark(&mut self, slot: usize, used: bool) {
        if let Some(word) = self.used.get_mut(slot / 64) {
            let bit = 1 << (slot % 64);
            *word = if used { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Links for Vec<Link> {
        fn link(&mut self, place: u32) -> Option<&mut Link> {
            self.get_mut(place as usize)
        }
    }

    fn due(wheel: &mut Wheel, links: &mut Vec<Link>, now: u32) -> Vec<u32> {
        let mut places: Vec<u32> = std::iter::from_fn(|| wheel.next_due(links, now)).collect();
        places.sort_unstable();
        places
    }

    #[test]
    fn each_is_due_once_and_not_before_its_time() {
        let mut links = vec![Link::default(); 5000];
        let mut wheel = Wheel::new(100).unwrap();
        for place in 0..1000 {
            wheel.put(&mut links, place, 101 + place);
        }
        let mut now = 100;
        for place in 0..1000 {
            assert_eq!(wheel.next_tick(), Some(101 + place));
            now += 1;
            assert_eq!(due(&mut wheel, &mut links, now), [place]);
        }
        assert_eq!(wheel.next_tick(), None);
        assert!(links.iter().all(|link| *link == Link::default()));
    }

    #[test]
    fn what_is_too_far_is_looked_at_on_the_way() {
        let mut links = vec![Link::default(); 1];
        let mut wheel = Wheel::new(7).unwrap();
        wheel.put(&mut links, 0, 1_000_000);
        assert_eq!(wheel.next_tick(), Some(7 + 1023));
        assert_eq!(due(&mut wheel, &mut links, 7 + 1022), []);
        assert_eq!(due(&mut wheel, &mut links, 7 + 1023), [0]);
    }

    #[test]
    fn any_of_a_list_can_be_taken_and_put_elsewhere() {
        let mut links = vec![Link::default(); 10];
        let mut wheel = Wheel::new(0).unwrap();
        for place in 0..10 {
            wheel.put(&mut links, place, 50);
        }
        for place in [0, 9, 4] {
            wheel.take(&mut links, place);
            wheel.take(&mut links, place);
        }
        wheel.put(&mut links, 5, 60);
        assert_eq!(due(&mut wheel, &mut links, 55), [1, 2, 3, 6, 7, 8]);
        assert_eq!(due(&mut wheel, &mut links, 60), [5]);
    }

    #[test]
    fn the_past_is_due_at_once_also_after_a_long_sleep() {
        let mut links = vec![Link::default(); 3];
        let mut wheel = Wheel::new(10).unwrap();
        wheel.put(&mut links, 0, 3);
        wheel.put(&mut links, 1, 900);
        wheel.put(&mut links, 2, 1033);
        assert_eq!(due(&mut wheel, &mut links, 1_000_000), [0, 1, 2]);
        wheel.put(&mut links, 0, 5);
        assert_eq!(wheel.next_tick(), Some(1_000_001));
    }
}
