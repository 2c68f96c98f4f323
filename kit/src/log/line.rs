//! One event as one line.
//!
//! Invariant: at most [`LINE_LIMIT`] bytes with its newline, no control character but that newline, and valid JSON in
//! that format however much was cut. A value costs no more work than what is kept of it.
//! Non-goal: colours.

use std::fmt::{self, Write as _};

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

use super::Format;

/// Bytes of a line, its newline included.
pub const LINE_LIMIT: usize = 1024;

/// Room kept for what ends a cut line in either format.
const TAIL: usize = r#"","cut":true}"#.len() + 1;

/// The line of an event.
pub(super) fn format(format: Format, event: &Event<'_>) -> String {
    let mut line = Line::begin(format, event.metadata());
    // The message first, whatever the order in the code.
    event.record(&mut Only { line: &mut line, message: true });
    event.record(&mut Only { line: &mut line, message: false });
    line.end()
}

/// The line that tells of dropped lines.
pub(super) fn dropped(format: Format, metadata: &Metadata<'_>, dropped: u64) -> String {
    let mut line = Line::begin(format, metadata);
    line.field("message", &format_args!("lines dropped by the rate limit"));
    line.field("dropped", &dropped);
    let place = (metadata.file().unwrap_or(""), metadata.line().unwrap_or(0));
    line.field("place", &format_args!("{}:{}", place.0, place.1));
    line.end()
}

struct Line {
    format: Format,
    text: String,
    cut: Cut,
}

/// Where a line ran out of room.
#[derive(PartialEq, Eq)]
enum Cut {
    Nowhere,
    BeforeField,
    InsideValue,
}

impl Line {
    fn begin(format: Format, metadata: &Metadata<'_>) -> Self {
        let mut text = String::with_capacity(256);
        let (level, target) = (metadata.level(), metadata.target());
        let now = OffsetDateTime::now_utc();
        // Writing to a String cannot fail. Levels and targets are words of the program.
        let _ = match format {
            Format::Plain => write!(text, "{} {level:>5} {target}:", Stamp(now)),
            Format::Json => write!(text, r#"{{"time":"{}","level":"{level}","target":"{target}""#, Stamp(now)),
        };
        Self { format, text, cut: Cut::Nowhere }
    }

    fn field(&mut self, name: &str, value: &dyn fmt::Debug) {
        if self.cut != Cut::Nowhere {
            return;
        }
        let before = self.text.len();
        let open = match self.format {
            Format::Plain if name == "message" => " ".to_owned(),
            Format::Plain => format!(" {name}="),
            Format::Json => format!(r#","{name}":""#),
        };
        if before + open.len() + TAIL > LINE_LIMIT {
            self.cut = Cut::BeforeField;
            return;
        }
        self.text.push_str(&open);
        let room = LINE_LIMIT - TAIL - self.text.len();
        let quoted = self.format == Format::Json;
        let mut escaped = Escaped { text: &mut self.text, room, quoted, is_full: false };
        // An error means that the room is used up (it stops the formatting), or that the value failed to print itself.
        let _ = write!(escaped, "{value:?}");
        if escaped.is_full {
            self.cut = Cut::InsideValue;
        } else if quoted {
            self.text.push('"');
        }
    }

    fn end(mut self) -> String {
        self.text.push_str(match (self.format, self.cut) {
            (Format::Plain, Cut::Nowhere) => "\n",
            (Format::Plain, _) => "...\n",
            (Format::Json, Cut::Nowhere) => "}\n",
            (Format::Json, Cut::BeforeField) => ",\"cut\":true}\n",
            (Format::Json, Cut::InsideValue) => "\",\"cut\":true}\n",
        });
        self.text
    }
}

/// Escapes what is written through it, up to its room.
struct Escaped<'a> {
    text: &'a mut String,
    room: usize,
    quoted: bool,
    is_full: bool,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            let mut buffer = [0; 4];
            let escaped = match c {
                '"' | '\\' if self.quoted => format!("\\{c}"),
                c if is_unsafe(c) && self.quoted => format!("\\u{:04x}", u32::from(c)),
                c if is_unsafe(c) => c.escape_unicode().to_string(),
                c => {
                    self.put(c.encode_utf8(&mut buffer))?;
                    continue;
                }
            };
            self.put(&escaped)?;
        }
        Ok(())
    }
}

impl Escaped<'_> {
    fn put(&mut self, piece: &str) -> fmt::Result {
        let Some(room) = self.room.checked_sub(piece.len()) else {
            self.is_full = true;
            return Err(fmt::Error);
        };
        self.room = room;
        self.text.push_str(piece);
        Ok(())
    }
}

/// Control characters, line separators and marks that change the direction of text; all lie in Unicode's first plane.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Passes either the message or everything else on.
struct Only<'a> {
    line: &'a mut Line,
    message: bool,
}

impl Visit for Only<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if (field.name() == "message") == self.message {
            self.line.field(field.name(), value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        // `Arguments` prints as it is, where a `str` would quote and escape once more.
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// RFC 3339 in UTC with milliseconds.
struct Stamp(OffsetDateTime);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(t) = self;
        let (year, month, day) = (t.year(), u8::from(t.month()), t.day());
        let (hour, minute, second, milli) = (t.hour(), t.minute(), t.second(), t.millisecond());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}
