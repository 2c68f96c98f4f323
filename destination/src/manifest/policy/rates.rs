//! Of ports: rate limits.

use std::time::Duration;

use http::HeaderValue;

use super::UNKNOWN;
use super::requests::count_or;
use crate::manifest::fields::{Fields, shortened};
use crate::manifest::meta::is_field;
use crate::manifest::route::reference;
use crate::manifest::times;
use crate::model::policy::{HeaderRates, Rate, RateLimits};

/// Most clients or values with a rate of their own.
const MAX_OVERRIDES: usize = 1024;
const MAX_PER_SECOND: u64 = 1_000_000;
/// Longest value of a field.
const MAX_VALUE: usize = 256;

pub(super) fn read(fields: &mut Fields<'_, '_>, namespace: &str) -> RateLimits {
    let total = fields.within("total").and_then(|mut fields| whole(&mut fields));
    let per_client = fields.within("perClient").and_then(|mut fields| whole(&mut fields));
    let mut clients = Vec::new();
    fields.each("clients", |fields| {
        let mut names = Vec::new();
        fields.each("serviceAccounts", |fields| {
            names.extend(reference(fields, namespace));
            fields.finish(UNKNOWN);
        });
        if fields.list("serviceAccounts").is_empty() {
            fields.missing("serviceAccounts");
        }
        clients.extend(whole(fields).map(|rate| (names, rate)));
    });
    if clients.iter().map(|(names, _)| names.len()).sum::<usize>() > MAX_OVERRIDES {
        fields.error_at("clients", format!("more than {MAX_OVERRIDES} service accounts"));
    }
    let header = fields.within("header").and_then(|mut fields| by_header(&mut fields));
    fields.finish(UNKNOWN);
    RateLimits { total, per_client, clients, header }
}

fn by_header(fields: &mut Fields<'_, '_>) -> Option<HeaderRates> {
    let name = fields.text("name").map(str::to_ascii_lowercase);
    match &name {
        None => fields.missing("name"),
        Some(name) if !is_field(name) => {
            let message = format!("\"{}\" is no header field that a policy may look at", shortened(name));
            fields.error_at("name", message);
        }
        Some(_) => {}
    }
    let per_value = fields.within("perValue").and_then(|mut fields| whole(&mut fields));
    let mut values = Vec::new();
    fields.each("values", |fields| {
        let mut of = Vec::new();
        for (index, node) in fields.list("values").iter().enumerate() {
            let field = format!("values[{index}]");
            match fields.as_text(node, &field) {
                Some(text) if text.len() > MAX_VALUE || HeaderValue::from_str(text).is_err() => {
                    fields.error(node, &field, "no header field can have it".to_owned());
                }
                text => of.extend(text.map(str::to_owned)),
            }
        }
        if fields.list("values").is_empty() {
            fields.missing("values");
        }
        values.extend(whole(fields).map(|rate| (of, rate)));
    });
    let listed = values.iter().map(|(values, _)| values.len()).sum::<usize>();
    if listed > MAX_OVERRIDES {
        fields.error_at("values", format!("{listed} are more than {MAX_OVERRIDES}"));
    }
    fields.finish(UNKNOWN);
    Some(HeaderRates { name: name?, per_value, values })
}

/// A rate, which is the rest of a mapping.
fn whole(fields: &mut Fields<'_, '_>) -> Option<Rate> {
    let rate = rate(fields);
    fields.finish(UNKNOWN);
    rate
}

fn rate(fields: &mut Fields<'_, '_>) -> Option<Rate> {
    let requests = fields.integer("requests", 1..=60_000_000);
    if fields.take("requests").is_none() {
        fields.missing("requests");
    }
    let per = times::read(fields, "per").unwrap_or(Duration::from_secs(1));
    if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&per) {
        fields.error_at("per", "not within 1s to 1m".to_owned());
        return None;
    }
    let millis = u64::try_from(per.as_millis()).ok()?;
    // To the nearest, but never none.
    let per_minute = ((u64::try_from(requests?).ok()? * 60_000 + millis / 2) / millis).max(1);
    if per_minute > 60 * MAX_PER_SECOND {
        fields.error_at("requests", format!("more than {MAX_PER_SECOND} a second"));
        return None;
    }
    // By default what may come in one second.
    let burst = u32::try_from(per_minute / 60).ok()?.max(1);
    Some(Rate { per_minute, burst: count_or(fields, "burst", burst) })
}
