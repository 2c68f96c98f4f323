//! Names of which there are many: those that come together lie in one text.
//!
//! Invariant: a name is what was given, whatever others are in its text. It keeps the whole of it, so what outlives the list
//! that a name came with does not keep the name. Non-goal: equal names are not found and kept once.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A name, or none. Cheap to clone.
#[derive(Clone, Default)]
pub struct Name {
    /// One pointer, not two, as there are many. `None`: there are none but empty ones.
    all: Option<Arc<Box<str>>>,
    start: u32,
    length: u32,
}

impl Name {
    /// All of `names`, which are no more than a message has room for.
    pub fn all_of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<Name> {
        let all: String = names.clone().collect();
        let all = (!all.is_empty()).then(|| Arc::new(all.into_boxed_str()));
        let place = |end: &mut u32, name: &str| {
            let (start, length) = (*end, u32::try_from(name.len()).unwrap_or(0));
            *end = end.saturating_add(length);
            Some(Name { all: all.clone(), start, length })
        };
        names.scan(0, place).collect()
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        let (start, length) = (self.start as usize, self.length as usize);
        self.all.as_ref().and_then(|all| all.get(start..start + length)).unwrap_or_default()
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Name::all_of([name].into_iter()).pop().unwrap_or_default()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_text_are_what_was_given() {
        let given = ["shop/web-1", "", "shop/é", "shop/web-1"];
        let names = Name::all_of(given.into_iter());
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), given);
        assert_eq!((&names[0], &names[2]), (&names[3], &Name::from("shop/é")));
        assert_eq!((names[1].clone(), Name::all_of([].into_iter()).len()), (Name::default(), 0));
    }
}
