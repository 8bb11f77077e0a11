//! Writing results: aligned tables for people, JSON for programs.

use std::io::Write;

use super::CommandError;

/// Writes rows under their headings, columns aligned: the first to the left, numbers to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), CommandError> {
    text(&render(headings, rows))
}

/// Writes one JSON document.
pub fn json(value: &serde_json::Value) -> Result<(), CommandError> {
    text(&format!("{value}\n"))
}

/// Writes text as it is.
pub fn text(text: &str) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::output)
}

fn render(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let is_number = |column: usize| {
        !rows.is_empty()
            && rows.iter().all(|row| row[column].starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    };
    let columns: Vec<(usize, bool)> =
        (0..headings.len()).map(|c| (width(c), c > 0 && is_number(c))).collect();
    let mut out = String::new();
    let headings: Vec<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(&columns) {
            let padded = if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&padded);
            line.push_str("  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A number of bytes as people read it.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Bytes as JSON: text if they are UTF-8, or else hexadecimal under the name with `_hex` added.
pub fn put_bytes(object: &mut serde_json::Map<String, serde_json::Value>, name: &str, value: Option<&[u8]>) {
    match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => object.insert(name.to_owned(), serde_json::Value::Null),
        Some((_, Ok(text))) => object.insert(name.to_owned(), text.into()),
        Some((bytes, Err(_))) => object.insert(format!("{name}_hex"), hex(bytes).into()),
    };
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_numbers_stand_right() {
        let rows =
            vec![vec!["flights".into(), "4".into(), "x".into()], vec!["a".into(), "12".into(), "".into()]];
        assert_eq!(
            render(&["topic", "partitions", "note"], &rows),
            "topic    partitions  note\nflights           4  x\na                12\n"
        );
    }

    #[test]
    fn bytes_and_hex_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        let mut object = serde_json::Map::new();
        put_bytes(&mut object, "key", None);
        put_bytes(&mut object, "value", Some(b"\xff\x00"));
        assert_eq!(serde_json::Value::Object(object).to_string(), r#"{"key":null,"value_hex":"ff00"}"#);
    }
}
