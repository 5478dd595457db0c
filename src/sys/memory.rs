//! A `Box` that is an error where memory is short, instead of the process's end.

/// Puts a value into a box; `None` without memory.
pub fn boxed<T>(value: T) -> Option<Box<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(1).ok()?;
    room.push(value);
    if room.capacity() != 1 {
        // A value without a size, whose box needs no memory.
        return room.pop().map(Box::new);
    }
    let place = Vec::leak(room).as_mut_ptr();
    // SAFETY: the place of a vector of length and capacity 1, which a moment ago was given up: a value of this type in
    // memory that was allocated for just that.
    Some(unsafe { Box::from_raw(place) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_size() {
        let text = String::from("kept");
        let function: Box<dyn Fn() -> String> = boxed(move || text.clone()).unwrap();
        assert_eq!(function(), "kept");
        let nothing: Box<dyn Fn() -> u8> = boxed(|| 7).unwrap();
        assert_eq!(nothing(), 7);
        assert_eq!(*boxed([1u64; 100]).unwrap(), [1; 100]);
    }
}
