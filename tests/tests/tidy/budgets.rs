//! Sizes: files, functions, `where` clauses.
//!
//! Invariant: the numbers are those of the style guide; what is over them names its place.
//! Non-goal: medians, which are printed and not judged.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};

use crate::source::{File, Workspace};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 80;
/// In a thousand lines, over the whole workspace.
const WHERE_CLAUSES: usize = 2;

#[derive(Default)]
struct Figures {
    files: Vec<usize>,
    functions: Vec<usize>,
    wheres: usize,
}

/// A table of sizes by crate, and what is over its budget.
pub(crate) fn check(workspace: &Workspace) -> (String, Vec<String>) {
    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    let mut findings = Vec::new();
    for file in &workspace.files {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            findings.push(format!("{}: {lines} lines, {FILE_LINES} at most", file.path));
        }
        let functions = functions(file);
        for (name, line, length) in functions.iter().filter(|(_, _, length)| *length > FUNCTION_LINES) {
            findings.push(format!("{}:{line}: {name} has {length} lines, {FUNCTION_LINES} at most", file.path));
        }
        let folder = file.path.split('/').next().unwrap_or_default();
        let figures = figures.entry(folder).or_default();
        figures.files.push(lines);
        figures.functions.extend(functions.iter().map(|(_, _, length)| length));
        figures.wheres += file.words().filter(|word| word.text == "where").count();
    }
    let lines: usize = figures.values().flat_map(|crate_| &crate_.files).sum();
    let wheres: usize = figures.values().map(|crate_| crate_.wheres).sum();
    if wheres * 1000 > WHERE_CLAUSES * lines {
        findings.push(format!("{wheres} where clauses in {lines} lines, {WHERE_CLAUSES} in a thousand at most"));
    }
    let head = "              lines  files  median  max  functions  median  max  where".to_owned();
    let rows = figures.iter_mut().map(|(name, figures)| row(name, figures));
    (std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n"), findings)
}

fn row(name: &str, figures: &mut Figures) -> String {
    let Figures { files, functions, wheres } = figures;
    files.sort_unstable();
    functions.sort_unstable();
    let middle = |sorted: &[usize]| sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let largest = |sorted: &[usize]| sorted.last().copied().unwrap_or_default();
    format!(
        "  {name:<12}{:>5}{:>7}{:>8}{:>5}{:>11}{:>8}{:>5}{wheres:>7}",
        files.iter().sum::<usize>(),
        files.len(),
        middle(files),
        largest(files),
        functions.len(),
        middle(functions),
        largest(functions),
    )
}

/// Name, first line and length of each function, from its signature to its closing brace.
fn functions(file: &File) -> Vec<(String, usize, usize)> {
    let parsed = syn::parse_file(&file.text).unwrap_or_else(|error| panic!("{}: {error}", file.path));
    let mut finder = Finder::default();
    finder.visit_file(&parsed);
    finder.0
}

#[derive(Default)]
struct Finder(Vec<(String, usize, usize)>);

impl Finder {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.ident.span().start().line;
        let last = block.brace_token.span.close().end().line;
        self.0.push((signature.ident.to_string(), first, last + 1 - first));
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}
