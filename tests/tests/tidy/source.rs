//! The workspace's source files as tokens: words, paths (use trees spread out) and string literals, with lines.
//!
//! Invariant: a path is found wherever it stands, in macros too.
//! Non-goal: resolving renames (`use a as b`); a renamed room still shows in the `use` itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// All crates' `.rs` files.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) files: Vec<File>,
}

/// A source file.
pub(crate) struct File {
    /// Relative to the workspace.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) paths: Vec<Mention>,
    pub(crate) strings: Vec<(String, usize)>,
}

/// A path as it is written, `a::b::c`; a single word is one as well.
pub(crate) struct Mention {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// How many inline modules it stands in.
    pub(crate) depth: usize,
    /// The name of the attribute that it stands in.
    pub(crate) attribute: Option<String>,
    /// Whether `!` follows.
    pub(crate) is_macro: bool,
}

/// A word of a path.
pub(crate) struct Word<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
    pub(crate) in_attribute: bool,
}

impl Workspace {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        collect(&root, &root, &mut files);
        files.sort_by(|left, right| left.path.cmp(&right.path));
        assert!(files.len() > 10, "the walk found only {} files", files.len());
        Self { root, files }
    }

    /// Files under a folder, `proxy/src/`.
    pub(crate) fn under(&self, prefix: &str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| file.path.starts_with(prefix))
    }
}

impl File {
    fn parse(path: String, text: String) -> Self {
        let tokens = TokenStream::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut file = Self { path, text, paths: Vec::new(), strings: Vec::new() };
        file.scan(tokens, &[], &Place { depth: 0, attribute: None });
        file
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = Word<'_>> {
        self.paths.iter().flat_map(|mention| {
            let in_attribute = mention.attribute.is_some();
            let line = mention.line;
            mention.segments.iter().map(move |text| Word { text, line, in_attribute })
        })
    }

    /// `prefix` is the path before the braces of a use tree.
    fn scan(&mut self, tokens: TokenStream, prefix: &[String], place: &Place) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(_) => at = self.path(&tokens, at, prefix, place),
                TokenTree::Group(group) => {
                    let place = place.within(&tokens[..at], group);
                    // Only the braces of a use tree continue a path; those are taken by `path`.
                    self.scan(group.stream(), &[], &place);
                    at += 1;
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    if text.contains('"') && place.attribute.as_deref() != Some("doc") {
                        self.strings.push((text.trim_matches('"').to_owned(), literal.span().start().line));
                    }
                    at += 1;
                }
                TokenTree::Punct(_) => at += 1,
            }
        }
    }

    /// Takes `a::b::{..}` or `a::b` from `tokens[at..]`; returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String], place: &Place) -> usize {
        let line = tokens[at].span().start().line;
        let mut segments = prefix.to_vec();
        while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
            segments.push(ident.to_string());
            at += 1;
            if !is_separator(tokens, at) {
                break;
            }
            at += 2;
            if let Some(TokenTree::Group(group)) = tokens.get(at)
                && group.delimiter() == Delimiter::Brace
            {
                self.scan(group.stream(), &segments, place);
                return at + 1;
            }
        }
        let Place { depth, attribute } = place.clone();
        let is_macro = matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
        self.paths.push(Mention { segments, line, depth, attribute, is_macro });
        at
    }
}

/// Where a token stands.
#[derive(Clone)]
struct Place {
    depth: usize,
    attribute: Option<String>,
}

impl Place {
    /// The place inside `group`, which comes after `before`.
    fn within(&self, before: &[TokenTree], group: &Group) -> Self {
        let mut place = self.clone();
        match (group.delimiter(), before) {
            (Delimiter::Brace, [.., TokenTree::Ident(word), TokenTree::Ident(_)]) if word == "mod" => place.depth += 1,
            (Delimiter::Bracket, before) if opens_attribute(before) => {
                place.attribute = group.stream().into_iter().next().map(|first| first.to_string());
            }
            _ => {}
        }
        place
    }
}

/// `#` or `#!`.
fn opens_attribute(before: &[TokenTree]) -> bool {
    let is = |token: &TokenTree, wanted| matches!(token, TokenTree::Punct(mark) if mark.as_char() == wanted);
    match before {
        [.., hash, mark] if is(mark, '!') => is(hash, '#'),
        [.., hash] => is(hash, '#'),
        [] => false,
    }
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(mark)) if mark.as_char() == ':');
    colon(at) && colon(at + 1)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder that was just opened").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(root, &path, files);
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            // An editor's rename may take a file away meanwhile.
            if let Ok(text) = fs::read_to_string(&path) {
                files.push(File::parse(relative, text));
            }
        }
    }
}

#[test]
fn paths_are_found_in_use_trees_macros_and_inline_modules() {
    let text =
        "use crate::{net::Stream, model};\nmod tests { fn f() { select! { x = super::super::http::a() => {} } } }";
    let file = File::parse("x.rs".to_owned(), text.to_owned());
    let found: Vec<_> = file.paths.iter().map(|mention| (mention.segments.join("::"), mention.depth)).collect();
    for path in [("crate::net::Stream", 0), ("crate::model", 0), ("super::super::http::a", 1)] {
        assert!(found.contains(&(path.0.to_owned(), path.1)), "{path:?} in {found:?}");
    }
}

#[test]
fn comments_and_documentation_are_no_mentions() {
    let file = File::parse("x.rs".to_owned(), "//! crate::net\n/// tokio \"name_total\"\nfn f() {}".to_owned());
    assert!(file.paths.iter().all(|mention| mention.attribute.is_some() || mention.segments.len() == 1));
    assert!(file.strings.is_empty(), "{:?}", file.strings);
}
