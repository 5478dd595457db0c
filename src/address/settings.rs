//! What stands behind the `?` of an address: `name=value` pairs with `&` between them.

use super::piece::Piece;
use crate::error::{Error, Result};
use crate::text::Escaped;

/// The settings of one address, each with a name of its own. What they mean is not looked at here.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a>(Option<Piece<'a>>);

/// One `name=value`.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The name: lower-case letters and `_`, at least one.
    pub name: &'a str,
    /// The value: at least one character, and no control characters.
    pub value: &'a str,
    /// Where the name starts in the whole text.
    start: usize,
}

impl<'a> Settings<'a> {
    pub(super) fn read(text: Option<Piece<'a>>) -> Result<Self> {
        for pair in pairs(text) {
            let setting = Setting::read(pair)?;
            let mut earlier = pairs(text).flat_map(Setting::read).take_while(|other| other.start < setting.start);
            if earlier.any(|other| other.name == setting.name) {
                let name = Escaped(setting.name.as_bytes());
                return Err(pair.fault(0, format_args!("{name} is set twice"), "another option"));
            }
        }
        Ok(Self(text))
    }

    /// The settings, in their order.
    pub fn iter(&self) -> impl Iterator<Item = Setting<'a>> + use<'a> {
        pairs(self.0).flat_map(Setting::read)
    }
}

fn pairs<'a>(text: Option<Piece<'a>>) -> impl Iterator<Item = Piece<'a>> {
    text.into_iter().flat_map(|text| text.split_all(b'&'))
}

impl<'a> Setting<'a> {
    fn read(pair: Piece<'a>) -> Result<Self> {
        let name = pair.split(b'=').map_or(pair, |(name, _)| name);
        let stranger = name.bytes().iter().position(|byte| !matches!(byte, b'a'..=b'z' | b'_'));
        if name.bytes().is_empty() || stranger.is_some() {
            return Err(no_name(pair, stranger.unwrap_or(0)));
        }
        let Some((_, value)) = pair.split(b'=') else {
            return Err(name.fault_at_end("an option has no value", "`=` and a value"));
        };
        if value.bytes().is_empty() {
            return Err(value.fault(0, "an option has no value", "a value"));
        }
        if let Some(index) = value.find(b'?') {
            let expected = "`&` between options; the only `?` is in front of the first";
            return Err(value.fault(index, "there is a second `?`", expected));
        }
        Ok(Self { name: name.text()?, value: value.text()?, start: pair.start() })
    }

    pub(super) fn name_position(&self) -> usize {
        self.start
    }

    pub(super) fn value_position(&self) -> usize {
        self.start + self.name.len() + 1
    }
}

fn no_name(pair: Piece<'_>, index: usize) -> Error {
    let expected = "the name of an option in lower-case letters, `=` and its value, as in ?backlog=64";
    pair.fault(index, "this is no name of an option", expected)
}
