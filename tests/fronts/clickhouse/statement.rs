//! What a request says, read from its bytes: where an insert's rows begin, the parts of a form, numbers and statuses of errors. Pure.

use axum::http::StatusCode;

/// An `INSERT` whose rows follow its statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Insert {
    /// The statement without its format.
    pub(super) statement: String,
    /// The rows' format.
    pub(super) format: String,
    /// Where the rows begin.
    pub(super) data_at: usize,
}

impl Insert {
    /// Reads a statement; none where it is no insert or takes its rows from a query.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let mut words = Words { text, at: 0 };
        let (_, first) = words.next()?;
        if !first.eq_ignore_ascii_case("insert") {
            return None;
        }
        while let Some((start, word)) = words.next() {
            let statement = || Some(std::str::from_utf8(&text[..start]).ok()?.trim().to_owned());
            match word.to_ascii_uppercase().as_str() {
                "SELECT" | "WITH" => return None,
                "VALUES" => return Some(Self { statement: statement()?, format: "Values".to_owned(), data_at: words.at }),
                "FORMAT" => {
                    let (_, format) = words.next()?;
                    let mut data_at = words.at;
                    while text.get(data_at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
                        data_at += 1;
                    }
                    if text.get(data_at) == Some(&b'\n') {
                        data_at += 1;
                    }
                    return Some(Self { statement: statement()?, format, data_at });
                }
                _ => {}
            }
        }
        None
    }
}

/// The words of a statement outside of quotes and parentheses, each with its place.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
}

impl Iterator for Words<'_> {
    type Item = (usize, String);

    fn next(&mut self) -> Option<Self::Item> {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let mut depth = 0_usize;
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'\'' | b'"' | b'`' => self.skip_quoted(*byte),
                b'(' => {
                    depth += 1;
                    self.at += 1;
                }
                b')' => {
                    depth = depth.saturating_sub(1);
                    self.at += 1;
                }
                byte if depth == 0 && is_word(byte) => {
                    let start = self.at;
                    while self.text.get(self.at).is_some_and(is_word) {
                        self.at += 1;
                    }
                    return Some((start, String::from_utf8_lossy(&self.text[start..self.at]).into_owned()));
                }
                _ => self.at += 1,
            }
        }
        None
    }
}

impl Words<'_> {
    fn skip_quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == quote {
                return;
            }
        }
    }
}

/// The format that a query asks for at its end.
pub(super) fn format_of(text: &[u8]) -> Option<String> {
    if Insert::read(text).is_some() {
        return None;
    }
    let mut words = Words { text, at: 0 };
    let mut format = None;
    while let Some((_, word)) = words.next() {
        if word.eq_ignore_ascii_case("format") {
            format = words.next().map(|(_, format)| format);
        }
    }
    format
}

/// A part of a form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) is_file: bool,
    pub(super) bytes: Vec<u8>,
}

/// The parts of a `multipart/form-data` body.
pub(super) fn form_parts(body: &[u8], boundary: &str) -> Vec<Part> {
    let mark = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut places = find_all(body, mark.as_bytes()).into_iter().peekable();
    while let Some(start) = places.next() {
        let Some(end) = places.peek() else { break };
        // The line break before the next mark is the mark's.
        let part = &body[start + mark.len()..*end];
        let part = part.strip_prefix(b"\r\n").unwrap_or(part);
        let part = part.strip_suffix(b"\r\n").unwrap_or(part);
        let Some(split) = find_all(part, b"\r\n\r\n").first().copied() else { continue };
        let head = String::from_utf8_lossy(&part[..split]).into_owned();
        let value = |key: &str| {
            let rest = &head[head.find(&format!(" {key}=\""))? + key.len() + 3..];
            rest.split('"').next().map(str::to_owned)
        };
        let (name, file) = (value("name"), value("filename"));
        if let Some(name) = name {
            parts.push(Part { name, is_file: file.is_some(), bytes: part[split + 4..].to_vec() });
        }
    }
    parts
}

fn find_all(text: &[u8], part: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + part.len() <= text.len() {
        // The first byte is sought quickly, the rest compared.
        match text[at..].iter().position(|byte| *byte == part[0]) {
            Some(skipped) if text[at + skipped..].starts_with(part) => {
                found.push(at + skipped);
                at += skipped + part.len();
            }
            Some(skipped) => at += skipped + 1,
            None => break,
        }
    }
    found
}

/// A table that a request brings along.
#[derive(Debug)]
pub(super) struct External {
    pub(super) name: String,
    pub(super) structure: String,
    pub(super) format: String,
    pub(super) rows: Vec<u8>,
}

impl External {
    /// The part of a form with what the arguments say of it.
    pub(super) fn new(part: Part, arguments: &[(String, String)]) -> Result<Self, String> {
        let argument = |end: &str| {
            let name = format!("{}{end}", part.name);
            arguments.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        let columns = |types: String| {
            let columns = types.split(',').enumerate().map(|(number, kind)| format!("_{} {kind}", number + 1));
            columns.collect::<Vec<_>>().join(", ")
        };
        let structure = argument("_structure").or_else(|| argument("_types").map(columns));
        match structure {
            Some(structure) => {
                let format = argument("_format").unwrap_or_else(|| "TabSeparated".to_owned());
                Ok(Self { structure, format, name: part.name, rows: part.bytes })
            }
            None => Err(format!("Neither structure nor types have not been provided for external table {}", part.name)),
        }
    }
}

/// An identifier in backticks.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// User and password of a header `Authorization: Basic …`.
pub(super) fn basic(header: &str) -> Option<(String, String)> {
    let text = header.strip_prefix("Basic ")?.trim_end_matches('=');
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// The number of an error's text.
pub(super) fn code_of(text: &str) -> u32 {
    let digits = text.trim_start().strip_prefix("Code: ").and_then(|rest| rest.split('.').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(1002)
}

/// The status that the server gives with an error.
pub(super) fn status_of(code: u32) -> StatusCode {
    match code {
        194 => StatusCode::UNAUTHORIZED,
        192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
        6 | 25 | 26 | 27 | 36 | 38 | 41 | 43 | 44 | 53 | 62 | 69 | 72 | 117 | 167 | 168 | 427 => StatusCode::BAD_REQUEST,
        46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 149 | 336 | 511 => StatusCode::NOT_FOUND,
        48 => StatusCode::NOT_IMPLEMENTED,
        76 | 209 | 439 => StatusCode::SERVICE_UNAVAILABLE,
        159 => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_insert_begin_after_its_format() {
        for (text, statement, format, data) in [
            ("INSERT INTO t (a, `format`) FORMAT ArrowStream\nDATA", "INSERT INTO t (a, `format`)", "ArrowStream", "DATA"),
            ("insert into `select`.`x` values (1), (2)", "insert into `select`.`x`", "Values", " (1), (2)"),
            ("INSERT INTO t SETTINGS x = 'FORMAT' FORMAT TSV \r\n\n1", "INSERT INTO t SETTINGS x = 'FORMAT'", "TSV", "\n1"),
        ] {
            let insert = Insert::read(text.as_bytes()).unwrap();
            assert_eq!((insert.statement.as_str(), insert.format.as_str(), &text[insert.data_at..]), (statement, format, data));
        }
        for text in ["SELECT 1 FORMAT TSV", "INSERT INTO t SELECT 1 FORMAT Null", "INSERT INTO t", ""] {
            assert_eq!(Insert::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(format_of(b"SELECT 'format x' FORMAT Native;").as_deref(), Some("Native"));
        assert_eq!(format_of(b"SELECT 1"), None);
    }

    #[test]
    fn a_form_is_taken_apart() {
        let body =
            b"--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT 1\r\n--b\r\nContent-Disposition: form-data; \
                     name=\"t\"; filename=\"f\"\r\nContent-Type: x\r\n\r\n\r\n-\0\r\n\r\n--b--\r\n";
        let parts = form_parts(body, "b");
        assert_eq!(
            parts,
            [
                Part { name: "query".into(), is_file: false, bytes: b"SELECT 1".to_vec() },
                Part { name: "t".into(), is_file: true, bytes: b"\r\n-\0\r\n".to_vec() },
            ]
        );
    }

    #[test]
    fn a_password_in_base64() {
        assert_eq!(basic("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), Some(("Aladdin".into(), "open sesame".into())));
        assert_eq!(basic("Bearer x"), None);
    }
}
