//! What a leak scan's findings leave, once a value may be seen where the text goes.

use bottle_detector::{Finding, What};

/// What is left without the values that pass. With such a value goes what is nothing but it: the
/// token pattern that it is, and the same bytes under another name. What only overlaps it stays:
/// below Base64 two secrets share a character, and what was not looked at could hold any.
pub(crate) fn unmeant(mut found: Vec<Finding>, passes: impl Fn(&str) -> bool) -> Vec<Finding> {
    let is_meant = |f: &&Finding| matches!(&f.what, What::Value(name) if passes(name));
    let meant: Vec<_> =
        found.iter().filter(is_meant).map(|f| (f.span.clone(), f.layers.clone())).collect();
    let is_left = |f: &Finding| match &f.what {
        What::Value(name) => {
            !passes(name)
                && !meant.iter().any(|(span, layers)| *span == f.span && *layers == f.layers)
        }
        // A rule that asks for a file's path alone has found nothing within the text.
        What::Rule(id) if id.starts_with("limit-") || f.span.is_empty() => true,
        What::Rule(_) => {
            !meant.iter().any(|(span, _)| span.start <= f.span.start && f.span.end <= span.end)
        }
    };
    found.retain(is_left);
    found
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use bottle_detector::{LIMIT_WORK, Layer};

    use super::*;

    fn found(what: What, span: Range<u64>, layers: &[Layer]) -> Finding {
        Finding { what, span, layers: layers.to_vec() }
    }

    fn value(name: &str, span: Range<u64>) -> Finding {
        found(What::Value(name.into()), span, &[])
    }

    fn rule(id: &str, span: Range<u64>) -> Finding {
        found(What::Rule(id.into()), span, &[])
    }

    #[test]
    fn a_value_that_passes_takes_with_it_what_it_is_and_nothing_else() {
        for (beside, stays) in [
            // The token pattern that the value is, or a part of it.
            (rule("github-pat", 10..50), false),
            (rule("github-pat", 14..50), false),
            (found(What::Rule("github-pat".into()), 12..48, &[Layer::Base64]), false),
            // The same value, delivered twice.
            (value("SAME", 10..50), false),
            (rule("github-pat", 10..51), true),
            (rule("github-pat", 9..50), true),
            (rule("github-pat", 49..90), true),
            (value("OTHER", 10..49), true),
            (value("OTHER", 12..20), true),
            (value("OTHER", 49..70), true),
            (found(What::Value("OTHER".into()), 10..50, &[Layer::Base64]), true),
            // What was not looked at, and what is known of a file's path alone.
            (rule(LIMIT_WORK, 20..21), true),
            (rule("limit-unpack", 10..50), true),
            (rule("key-file", 10..10), true),
        ] {
            let left = unmeant(vec![value("MEANT", 10..50), beside.clone()], |n| n == "MEANT");
            assert_eq!(left, if stays { vec![beside] } else { Vec::new() });
        }
        let all = vec![value("MEANT", 10..50), rule("github-pat", 10..50)];
        assert_eq!(unmeant(all.clone(), |_| false), all);
    }
}
