//! The built filter with one callback that traps, for tests of what is left after a trap. The filter itself has
//! no switch for that: the callback's body is replaced in the module.

/// Replaces the body of the exported function `name` by one that traps.
///
/// # Panics
/// When the module isn't one, or exports no such function.
#[must_use]
pub fn with_trap_in(module: &[u8], name: &str) -> Vec<u8> {
    let mut sections = Vec::new();
    let mut rest = &module[8..];
    while let Some((id, after)) = rest.split_first() {
        let (size, after) = number(after);
        let (body, after) = after.split_at(size);
        sections.push((*id, body.to_vec()));
        rest = after;
    }
    let body_of = |wanted: u8| {
        let found = sections.iter().find(|(id, _)| *id == wanted);
        found.map(|(_, body)| body.as_slice()).unwrap_or_else(|| panic!("no section {wanted}"))
    };
    let function = exported_function(body_of(EXPORTS), name) - imported_functions(body_of(IMPORTS));
    let code = with_body(body_of(CODE), function, &[0, UNREACHABLE, END]);
    let mut changed = module[..8].to_vec();
    for (id, body) in sections {
        let body = if id == CODE { &code } else { &body };
        changed.push(id);
        put_number(&mut changed, body.len());
        changed.extend_from_slice(body);
    }
    changed
}

const IMPORTS: u8 = 2;
const EXPORTS: u8 = 7;
const CODE: u8 = 10;
const UNREACHABLE: u8 = 0x00;
const END: u8 = 0x0b;

/// An unsigned number in LEB128, and what follows it.
fn number(bytes: &[u8]) -> (usize, &[u8]) {
    let (mut value, mut shift) = (0, 0);
    for (at, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (value, &bytes[at + 1..]);
        }
    }
    panic!("a number without an end")
}

fn put_number(bytes: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_else(|error| panic!("{error}"));
        value >>= 7;
        bytes.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}

fn name_of(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (size, rest) = number(bytes);
    rest.split_at(size)
}

/// How many functions are imported; this module imports nothing else.
fn imported_functions(imports: &[u8]) -> usize {
    let (count, mut rest) = number(imports);
    for _ in 0..count {
        (_, rest) = name_of(rest);
        (_, rest) = name_of(rest);
        assert_eq!(rest[0], 0, "an import that is no function");
        (_, rest) = number(&rest[1..]);
    }
    count
}

fn exported_function(exports: &[u8], name: &str) -> usize {
    let (count, mut rest) = number(exports);
    for _ in 0..count {
        let (found, after) = name_of(rest);
        let kind = after[0];
        let (index, after) = number(&after[1..]);
        if found == name.as_bytes() && kind == 0 {
            return index;
        }
        rest = after;
    }
    panic!("the module exports no function {name}")
}

fn with_body(code: &[u8], function: usize, body: &[u8]) -> Vec<u8> {
    let (count, mut rest) = number(code);
    let mut changed = Vec::new();
    put_number(&mut changed, count);
    for index in 0..count {
        let (size, after) = number(rest);
        let (old, after) = after.split_at(size);
        let new = if index == function { body } else { old };
        put_number(&mut changed, new.len());
        changed.extend_from_slice(new);
        rest = after;
    }
    changed
}
