//! Fields that a proxy has to pass on as they are: names that look alike, and cookies in all their spellings.

use super::Case;
use super::Right::{Refuse, Serve};

type Carried = (&'static str, &'static [&'static str]);

/// Fields, and what has to arrive of them.
const ALIKE: &[(&str, Carried)] = &[
    ("X_Real_IP: 1\r\nX-Real-IP: 2", ("x-real-ip", &["2"])),
    ("X_Real_IP: 1\r\nX-Real-IP: 2", ("x_real_ip", &["1"])),
    ("X-LETTERS: a\r\nx-letters: b", ("x-letters", &["a", "b"])),
    ("X-List: a,b\r\nX-List: c", ("x-list", &["a,b", "c"])),
    ("X-Space: \t a  b\t ", ("x-space", &["a  b"])),
];

const COOKIES: &[(&str, Carried)] = &[
    ("Cookie: a=b", ("cookie", &["a=b"])),
    ("Cookie: a=b; c=d", ("cookie", &["a=b; c=d"])),
    ("Cookie: a=b;c=d", ("cookie", &["a=b;c=d"])),
    ("Cookie: a=b;", ("cookie", &["a=b;"])),
    ("Cookie: a=\"b c\"", ("cookie", &["a=\"b c\""])),
    ("Cookie: a=b=c==", ("cookie", &["a=b=c=="])),
    ("Cookie: =b", ("cookie", &["=b"])),
    ("Cookie: a", ("cookie", &["a"])),
    ("Cookie:", ("cookie", &[""])),
    ("Cookie: $Version=1; a=b", ("cookie", &["$Version=1; a=b"])),
    ("Cookie: a=\u{e9}", ("cookie", &["a=\u{e9}"])),
];

fn case((fields, carries): &(&str, Carried)) -> Case {
    let request = format!("GET /a HTTP/1.1\r\nHost: web\r\n{fields}\r\n\r\n");
    Case { carries: Some(*carries), ..Case::new(format!("{fields:?}"), request, Serve(&["/a"])) }
}

/// Names that a careless reader takes for others.
#[must_use]
pub fn alike() -> Vec<Case> {
    ALIKE.iter().map(case).collect()
}

/// Cookies.
#[must_use]
pub fn cookies() -> Vec<Case> {
    let control =
        Case::new("a control character", "GET /a HTTP/1.1\r\nHost: web\r\nCookie: a=\u{1}\r\n\r\n", Refuse(&[]));
    COOKIES.iter().map(case).chain([control]).collect()
}
