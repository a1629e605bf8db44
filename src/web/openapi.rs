//! What is answered over HTTP, described for programs (OpenAPI 3.1). Written by hand; that it leaves out nothing and
//! makes up nothing is tested here against the table of paths, and in `tests/e2e/test_openapi.py` against a server that
//! runs.

/// The document, as it is served.
pub const DOCUMENT: &str = include_str!("openapi.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::web::{ASSETS, PATHS, Route, allowed_methods, route};

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).expect("JSON")
    }

    /// What a reference within the document leads to.
    fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        let Some(reference) = value.get("$ref") else { return value };
        let pointer = reference
            .as_str()
            .and_then(|text| text.strip_prefix('#'))
            .expect("a reference within the document");
        document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    /// All references in a value.
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn it_has_the_paths_that_there_are_and_no_other() {
        let document = document();
        let described: BTreeSet<&str> =
            document["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
        let served = PATHS.iter().map(|(path, _)| *path).chain(ASSETS.iter().map(|asset| asset.path));
        assert_eq!(described, served.collect());
    }

    #[test]
    fn it_has_the_methods_that_a_path_takes_and_no_other() {
        let document = document();
        for (path, item) in document["paths"].as_object().expect("paths") {
            // A name in braces is a segment like any other.
            let route = route(path);
            let item = resolve(&document, item).as_object().expect("a path");
            let mut methods: BTreeSet<String> =
                item.keys().filter(|key| *key != "parameters").map(|key| key.to_uppercase()).collect();
            // What is said of all paths at once.
            methods.insert("OPTIONS".into());
            let has_no_end =
                matches!(route, Route::WebSocket | Route::Echo | Route::Dashboard | Route::Stream(_));
            if methods.contains("GET") && !has_no_end {
                methods.insert("HEAD".into());
            }
            let allowed = allowed_methods(&route).split(", ").map(str::to_owned).collect();
            assert_eq!(methods, allowed, "{path}");
        }
    }

    #[test]
    fn it_has_a_parameter_for_each_name_in_a_path() {
        let document = document();
        for (path, item) in document["paths"].as_object().expect("paths") {
            let item = resolve(&document, item).as_object().expect("a path");
            let operations = item.iter().filter(|(key, _)| *key != "parameters").map(|(_, value)| value);
            for operation in operations {
                let own = operation["parameters"].as_array().into_iter().flatten();
                let all = item["parameters"].as_array().into_iter().flatten().chain(own);
                let in_path: BTreeSet<String> = all
                    .map(|parameter| resolve(&document, parameter))
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| format!("{{{}}}", parameter["name"].as_str().expect("a name")))
                    .collect();
                let wanted = path.split('/').filter(|segment| segment.starts_with('{'));
                assert_eq!(in_path, wanted.map(str::to_owned).collect(), "{path}");
            }
        }
    }

    #[test]
    fn its_references_lead_somewhere_and_nothing_is_left_over() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        for (kind, components) in document["components"].as_object().expect("components") {
            // Schemes are referred to by their names alone.
            for name in components.as_object().expect("a map").keys().filter(|_| kind != "securitySchemes") {
                let reference = format!("#/components/{kind}/{name}");
                assert!(found.contains(reference.as_str()), "nothing refers to {reference}");
            }
        }
    }

    #[test]
    fn it_is_of_this_version() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
