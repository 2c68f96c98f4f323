//! Manifests, as `kubectl` takes them, to objects and findings: the place where YAML and JSON die.
//!
//! Invariant: pure and bounded (see [`MAX_BYTES`] and `tree::options`), whatever the text; a finding says line, column
//! and field; an object comes out only when all of it was understood. A route or a policy with an error is left out
//! alone; any other error makes the text as a whole unusable. Kinds that are not ours are reported and skipped. Non-
//! goal: files (`source`), and what objects mean together (`index`, `validate`).

mod fields;
mod finding;
mod meta;
mod policy;
mod route;
mod service;
mod slice;
#[cfg(test)]
mod tests;
mod times;
mod tree;
mod workload;

pub use finding::{Finding, Severity};

use crate::model::{Key, Kind, Object};
use fields::Fields;
use finding::Findings;
use tree::{Node, Value};

/// The longest text that is parsed.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Most text of a route or policy: proxies are told of it, perhaps with each rule, in one message.
const MAX_TEXT: usize = 64 * 1024;
/// Lists within lists; `kubectl` makes none.
const MAX_LISTS: u8 = 3;

/// What a manifest says.
#[derive(Debug, Default)]
pub struct Manifest {
    /// In the order of the text.
    pub objects: Vec<Declared>,
    /// In the order of the text, but for those of its syntax.
    pub findings: Vec<Finding>,
    /// Routes and policies that cannot be used, and why; the rest of the text can.
    pub rejected: Vec<(Key, String)>,
    is_broken: bool,
}

/// An object and where it begins.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The object.
    pub object: Object,
    /// From 1 on.
    pub line: u64,
    /// From 1 on.
    pub column: u64,
}

impl Manifest {
    /// Whether something in it is wrong, so that nothing of it must be used. Errors of routes and policies reject those alone.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }
}

/// Reads all documents of a text, YAML or JSON.
pub fn parse(text: &str) -> Manifest {
    let mut findings = Findings::default();
    let mut read = Manifest::default();
    if text.len() > MAX_BYTES {
        findings.whole_file(format!("longer than {MAX_BYTES} bytes"));
    } else {
        match tree::parse(text) {
            Ok(documents) => {
                for document in &documents {
                    document_of(document, Inherited::default(), &mut findings, &mut read);
                }
            }
            Err(finding) => findings.push(finding),
        }
    }
    read.is_broken = findings.is_broken();
    Manifest { findings: findings.into_vec(), ..read }
}

/// What an item has from the list around it, when it does not say itself.
#[derive(Clone, Copy, Default)]
struct Inherited<'a> {
    api_version: Option<&'a str>,
    kind: Option<&'a str>,
    depth: u8,
}

fn document_of(node: &Node, inherited: Inherited<'_>, findings: &mut Findings, manifest: &mut Manifest) {
    let before = findings.errors();
    let Some(mut fields) = Fields::of(node, String::new(), findings) else {
        return;
    };
    let kind = fields.text("kind").or(inherited.kind);
    let api_version = fields.text("apiVersion").or(inherited.api_version);
    let (Some(kind), Some(api_version)) = (kind, api_version) else {
        for (name, value) in [("kind", kind), ("apiVersion", api_version)] {
            if value.is_none() {
                fields.missing(name);
            }
        }
        return;
    };
    if let Some(of) = kind.strip_suffix("List") {
        let inherited = Inherited {
            kind: Some(of).filter(|of| !of.is_empty()),
            api_version: Some(api_version).filter(|_| !of.is_empty()),
            depth: inherited.depth + 1,
        };
        return list(fields, inherited, manifest);
    }
    let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind && known.api_version() == api_version);
    let Some(known) = known else {
        return fields.skipped_kind(api_version, kind);
    };
    let object = match known {
        Kind::Service => service::read(&mut fields).map(Object::Service),
        Kind::EndpointSlice => slice::read(&mut fields).map(Object::EndpointSlice),
        Kind::Workload => workload::read(&mut fields).map(Object::Workload),
        Kind::HttpRoute => route::read(&mut fields, route::Kind::Http).map(Object::HttpRoute),
        Kind::GrpcRoute => route::read(&mut fields, route::Kind::Grpc).map(Object::GrpcRoute),
        Kind::TrafficPolicy => policy::read(&mut fields).map(Box::new).map(Object::TrafficPolicy),
    };
    let text = node.text_bytes();
    if known.is_rejected_alone() && text > MAX_TEXT {
        fields.error_at_self(format!("{text} bytes of text are more than {MAX_TEXT}"));
    }
    fields.finish(match known {
        Kind::Workload | Kind::HttpRoute | Kind::GrpcRoute | Kind::TrafficPolicy => Severity::Error,
        Kind::Service | Kind::EndpointSlice => Severity::Warning,
    });
    if findings.errors() > before {
        if let Some(name) = meta::name_of(node).filter(|_| known.is_rejected_alone()) {
            manifest.rejected.push((Key { kind: known, name }, findings.excuse(before)));
        }
    } else if let Some(object) = object {
        let (line, column) = (node.line, node.column);
        manifest.objects.push(Declared { object, line, column });
    }
}

fn list(mut fields: Fields<'_, '_>, inherited: Inherited<'_>, manifest: &mut Manifest) {
    let Some(items) = fields.take("items") else {
        return fields.missing("items");
    };
    let Value::List(items) = &items.value else {
        return fields.expected(items, "items", "a list");
    };
    if inherited.depth > MAX_LISTS {
        return fields.error_at_self(format!("more than {MAX_LISTS} lists within each other"));
    }
    let findings = fields.into_findings();
    for item in items {
        document_of(item, inherited, findings, manifest);
    }
}
