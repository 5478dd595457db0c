//! Descriptors that the process was started with: `fd:` and `systemd:`.

use super::Address;
use super::piece::Piece;
use crate::error::{Error, Result};

/// The longest name of a descriptor in sd_listen_fds_with_names(3).
const LONGEST_NAME: usize = 255;

/// Reads what stands behind `fd:`.
pub fn descriptor(text: Piece<'_>) -> Result<Address<'_>> {
    let number = text.number(i32::MAX.cast_unsigned()).map_err(|index| no_descriptor(text, index))?;
    i32::try_from(number).map(Address::Descriptor).map_err(|_| no_descriptor(text, 0))
}

fn no_descriptor(text: Piece<'_>, index: usize) -> Error {
    let cause = "the descriptor is not a plain number";
    text.fault(index, cause, format_args!("a descriptor from 0 to {} in plain digits", i32::MAX))
}

/// Reads what stands behind `systemd:`.
pub fn systemd(text: Piece<'_>) -> Result<Address<'_>> {
    let stranger = text.bytes().iter().position(|byte| !matches!(byte, b' '..=b'~') || *byte == b':');
    if let Some(index) = stranger {
        let expected = "a name (FileDescriptorName=) of printable ASCII without `:`";
        return Err(text.fault(index, "the name has a character that cannot be in it", expected));
    }
    let name = text.text()?;
    if name.len() > LONGEST_NAME {
        return Err(text.too_long("name", LONGEST_NAME));
    }
    Ok(Address::Systemd(Some(name).filter(|name| !name.is_empty())))
}
