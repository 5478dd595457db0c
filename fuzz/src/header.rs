//! The structs and functions that `include/oyez.h` has: read from it, so that what is added there is tried at once.

const HEADER: &str = include_str!("../../include/oyez.h");

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub width: usize,
    pub kind: Kind,
}

/// What may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any number.
    Number,
    /// NULL or a string.
    Text,
    /// NULL or a function.
    Function,
    /// Anything; nobody looks behind it.
    User,
}

/// A struct that grows.
#[derive(Clone, Debug)]
pub struct Struct {
    pub name: &'static str,
    /// `size` is the first.
    pub fields: Vec<Field>,
    pub size: usize,
}

impl Struct {
    /// That of this name, laid out by the rules of C.
    pub fn of(name: &'static str) -> Self {
        let (start, end) = (format!("typedef struct {name} {{"), format!("}} {name};"));
        let body = HEADER.split_once(&start).and_then(|(_, rest)| rest.split_once(&end));
        let (body, _) = body.unwrap_or_else(|| panic!("{name} is not in the header"));
        let (mut fields, mut offset) = (Vec::new(), 0_usize);
        for declaration in without_comments(body).iter().flat_map(|part| part.split(';')) {
            let declaration = declaration.trim();
            if declaration.is_empty() {
                continue;
            }
            let (name, width, kind) = read(declaration);
            offset = offset.next_multiple_of(width);
            fields.push(Field { name, offset, width, kind });
            offset += width;
        }
        Self { name, fields, size: offset.next_multiple_of(size_of::<usize>()) }
    }

    /// Whether a program may say that its struct has so many bytes.
    pub fn is_size(&self, claimed: usize) -> bool {
        let is_older = self.fields.iter().skip(1).any(|field| field.offset == claimed);
        is_older || (self.size..=1024).contains(&claimed)
    }

    pub fn field(&self, name: &str) -> &Field {
        let found = self.fields.iter().find(|field| field.name == name);
        found.unwrap_or_else(|| panic!("{} has no {name}", self.name))
    }
}

fn without_comments(text: &'static str) -> Vec<&'static str> {
    text.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code)).collect()
}

fn read(declaration: &'static str) -> (&'static str, usize, Kind) {
    if let Some((_, name)) = declaration.split_once("(*") {
        return (name.split(')').next().unwrap_or(name), 8, Kind::Function);
    }
    let (kind, name) = declaration.rsplit_once([' ', '*']).unwrap_or(("", declaration));
    match declaration.trim_end_matches(name).trim_end() {
        "size_t" | "uint64_t" | "int64_t" => (name, 8, Kind::Number),
        "int32_t" | "uint32_t" => (name, 4, Kind::Number),
        "const char *" => (name, 8, Kind::Text),
        "void *" => (name, 8, Kind::User),
        "oyez_log" | "oyez_handler" => (name, 8, Kind::Function),
        _ => panic!("say in fuzz/src/header.rs what may stand in a field of type {kind}: {declaration}"),
    }
}
