//! What an event of a server's epoll set is about, as the word that the kernel keeps with it.

use rustix::event::epoll::EventData;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The eventfd by which others wake the loop.
    Wake,
    /// A listener, by its number within the server.
    Listener(u32),
    /// A lingering connection, by its number.
    Linger(u64),
    /// A child process, by its place.
    Child(u32),
    /// A connection of an event loop, by its place and which of that place's connections it is (24 bits).
    Connection {
        /// The place.
        index: u32,
        /// Which of its connections.
        turn: u32,
    },
    /// The timer of a server that a foreign loop drives.
    Timer,
}

const KIND_SHIFT: u32 = 56;
const VALUE: u64 = (1 << KIND_SHIFT) - 1;

impl From<Token> for EventData {
    fn from(token: Token) -> Self {
        let (kind, value) = match token {
            Token::Wake => (0, 0),
            Token::Listener(number) => (1, u64::from(number)),
            Token::Linger(number) => (2, number & VALUE),
            Token::Child(place) => (3, u64::from(place)),
            Token::Timer => (4, 0),
            Token::Connection { index, turn } => (5, u64::from(turn) << 32 & VALUE | u64::from(index)),
        };
        EventData::new_u64(kind << KIND_SHIFT | value)
    }
}

impl Token {
    /// The token of an event.
    pub fn of(data: EventData) -> Self {
        let word = data.u64();
        let value = word & VALUE;
        match word >> KIND_SHIFT {
            1 => Token::Listener(value as u32),
            2 => Token::Linger(value),
            3 => Token::Child(value as u32),
            4 => Token::Timer,
            5 => Token::Connection { index: value as u32, turn: (value >> 32) as u32 },
            _ => Token::Wake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        let connection = Token::Connection { index: u32::MAX, turn: (1 << 24) - 1 };
        let tokens =
            [Token::Wake, Token::Listener(7), Token::Linger(1 << 40), Token::Child(9), Token::Timer, connection];
        for token in tokens {
            assert_eq!(Token::of(EventData::from(token)), token);
        }
    }
}
