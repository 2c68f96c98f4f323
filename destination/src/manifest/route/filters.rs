//! What is done to requests and responses on their way.

use std::num::NonZeroU16;

use http::{HeaderName, HeaderValue};

use super::{Kind, UNKNOWN, optional_port, steering};
use crate::manifest::fields::{Fields, shortened};
use crate::model::is_subdomain;
use crate::model::route::{Filters, HeaderEdit, PathEdit, Redirect, Rewrite};

/// Of one filter, each.
const MAX_EDITS: usize = 16;
const STATUSES: [i64; 5] = [301, 302, 303, 307, 308];

/// The filters of a rule or of a backend.
pub(super) fn read(fields: &mut Fields<'_, '_>, kind: Kind, namespace: &str) -> Filters {
    let mut filters = Filters::default();
    let mut seen: Vec<String> = Vec::new();
    fields.each("filters", |fields| {
        let Some(name) = fields.text("type") else {
            return fields.missing("type");
        };
        // Each may be there once, but requests may be sent to several places.
        if name != "RequestMirror" && seen.iter().any(|other| other == name) {
            return fields.error_at("type", format!("{} is there twice", shortened(name)));
        }
        seen.push(name.to_owned());
        one(fields, kind, name, namespace, &mut filters);
        fields.finish(UNKNOWN);
    });
    if filters.mirrors.len() > MAX_EDITS {
        fields.error_at("filters", format!("more than {MAX_EDITS} of RequestMirror"));
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        fields.error_at("filters", "RequestRedirect and URLRewrite cannot both be there".to_owned());
    }
    filters
}

fn one(fields: &mut Fields<'_, '_>, kind: Kind, name: &str, namespace: &str, filters: &mut Filters) {
    let missing = "has to be there, as the type says";
    match (name, kind) {
        ("RequestHeaderModifier", _) => match fields.within("requestHeaderModifier") {
            Some(mut within) => filters.request_headers = headers(&mut within),
            None => fields.error_at("requestHeaderModifier", missing.to_owned()),
        },
        ("ResponseHeaderModifier", _) => match fields.within("responseHeaderModifier") {
            Some(mut within) => filters.response_headers = headers(&mut within),
            None => fields.error_at("responseHeaderModifier", missing.to_owned()),
        },
        ("RequestRedirect", Kind::Http) => match fields.within("requestRedirect") {
            Some(mut within) => filters.redirect = Some(redirect(&mut within)),
            None => fields.error_at("requestRedirect", missing.to_owned()),
        },
        ("URLRewrite", Kind::Http) => match fields.within("urlRewrite") {
            Some(mut within) => filters.rewrite = Some(rewrite(&mut within)),
            None => fields.error_at("urlRewrite", missing.to_owned()),
        },
        ("RequestMirror", _) => match fields.within("requestMirror") {
            Some(mut within) => filters.mirrors.extend(steering::mirror(&mut within, namespace)),
            None => fields.error_at("requestMirror", missing.to_owned()),
        },
        ("CORS", Kind::Http) => match fields.within("cors") {
            Some(mut within) => filters.cors = Some(steering::cors(&mut within)),
            None => fields.error_at("cors", missing.to_owned()),
        },
        (other, _) => fields.error_at("type", format!("the mesh has no filter {} here", shortened(other))),
    }
}

fn headers(fields: &mut Fields<'_, '_>) -> HeaderEdit {
    let (set, add) = (values(fields, "set"), values(fields, "add"));
    let mut remove = Vec::new();
    for (index, node) in fields.list("remove").iter().enumerate() {
        let field = format!("remove[{index}]");
        let name = fields.as_text(node, &field);
        match name.map(|name| name.to_ascii_lowercase()) {
            Some(name) if may_edit(&name) => remove.push(name),
            Some(name) => fields.error(node, &field, not_editable(&name)),
            None => {}
        }
    }
    if set.len().max(add.len()).max(remove.len()) > MAX_EDITS {
        fields.error_at_self(format!("more than {MAX_EDITS} of a kind"));
    }
    fields.finish(UNKNOWN);
    HeaderEdit { set, add, remove }
}

fn values(fields: &mut Fields<'_, '_>, list: &'static str) -> Vec<(String, String)> {
    let mut values: Vec<(String, String)> = Vec::new();
    fields.each(list, |fields| {
        let (name, value) = (fields.text("name"), fields.text("value"));
        fields.finish(UNKNOWN);
        let (Some(name), Some(value)) = (name, value) else {
            return fields.error_at_self("name and value have to be there".to_owned());
        };
        let name = name.to_ascii_lowercase();
        if !may_edit(&name) {
            return fields.error_at("name", not_editable(&name));
        }
        if HeaderValue::from_str(value).is_err() {
            return fields.error_at("value", "no header field can have it".to_owned());
        }
        // Of two of the same name the first counts, as the API has it.
        if !values.iter().any(|(other, _)| *other == name) {
            values.push((name, value.to_owned()));
        }
    });
    values
}

/// What frames a message, names its authority or is the mesh's own stays as it is.
fn may_edit(name: &str) -> bool {
    const FIXED: [&str; 7] = ["host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade"];
    HeaderName::try_from(name).is_ok() && !FIXED.contains(&name) && !name.starts_with("mesh-")
}

fn not_editable(name: &str) -> String {
    format!("\"{}\" is no header field that a route may change", shortened(name))
}

fn redirect(fields: &mut Fields<'_, '_>) -> Redirect {
    let scheme = fields.text("scheme");
    if let Some(other) = scheme.filter(|scheme| !matches!(*scheme, "http" | "https")) {
        fields.error_at("scheme", format!("\"{}\" is neither http nor https", shortened(other)));
    }
    let hostname = hostname(fields);
    let port: Option<NonZeroU16> = optional_port(fields, "port");
    let path = path(fields);
    let status = fields.integer("statusCode", 0..=999).unwrap_or(302);
    if !STATUSES.contains(&status) {
        fields.error_at("statusCode", format!("{status} is none of 301, 302, 303, 307, 308"));
    }
    fields.finish(UNKNOWN);
    let status = u16::try_from(status).unwrap_or(302);
    Redirect { scheme: scheme.map(str::to_owned), hostname, port, path, status }
}

fn rewrite(fields: &mut Fields<'_, '_>) -> Rewrite {
    let rewrite = Rewrite { hostname: hostname(fields), path: path(fields) };
    fields.finish(UNKNOWN);
    rewrite
}

fn hostname(fields: &mut Fields<'_, '_>) -> Option<String> {
    let text = fields.text("hostname")?;
    if !is_subdomain(text) {
        fields.error_at("hostname", format!("\"{}\" is no host name", shortened(text)));
    }
    Some(text.to_owned())
}

fn path(fields: &mut Fields<'_, '_>) -> Option<PathEdit> {
    let mut fields = fields.within("path")?;
    let kind = fields.text("type").unwrap_or_default();
    let (full, prefix) = (fields.text("replaceFullPath"), fields.text("replacePrefixMatch"));
    fields.finish(UNKNOWN);
    let edit = match (kind, full, prefix) {
        ("ReplaceFullPath", Some(path), None) => PathEdit::Full(path.to_owned()),
        ("ReplacePrefixMatch", None, Some(path)) => PathEdit::Prefix(path.to_owned()),
        _ => {
            let message = "type is ReplaceFullPath or ReplacePrefixMatch, and the field of that name is there alone";
            fields.error_at_self(message.to_owned());
            return None;
        }
    };
    let (PathEdit::Full(path) | PathEdit::Prefix(path)) = &edit;
    let fits = path.is_empty() || path.starts_with('/');
    if !fits || !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains(['?', '#']) {
        fields.error_at_self("a path begins with / and has no ?, # or blank".to_owned());
    }
    Some(edit)
}
