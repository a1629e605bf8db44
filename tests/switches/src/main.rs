//! Writes all mutants of some files into them, each behind a switch, so that one program has them all and one build is enough.
//!
//! `switches MUTANTS.json ROOT MAP.json [NUMBERS]` reads what `cargo mutants --list --json` has said of the files under ROOT, changes them in
//! place, and writes to MAP.json where each mutant is (file, first line, last line), or why it is nowhere. Mutants are numbered from 1 in the
//! order of the list; NUMBERS is a file with those that are to be left out, one a line, because they do not compile.
//!
//! A changed place asks `crate::mutants::active(FIRST)` which mutant is on. What was there comes first in each `match`, so that types are
//! inferred from it, and a mutant of another type is the one that the compiler complains of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::{env, fs};

use proc_macro2::{LineColumn, Span};
use serde_json::{Value, json};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// What the changed files call.
const SWITCH: &str = "crate::mutants::active";

/// A mutant as cargo-mutants lists it.
struct Mutant {
    number: u32,
    genre: String,
    replacement: String,
    start: Place,
}

/// Line from 1, column in characters from 1.
type Place = (usize, usize);

/// A piece of a file that is written anew, with what it is written from.
struct Site {
    range: Range<usize>,
    what: What,
    mutants: Vec<(u32, String)>,
}

enum What {
    /// Two operands.
    Binary { left: Range<usize>, operator: Range<usize>, right: Range<usize> },
    /// An operand behind an operator.
    Unary { operand: Range<usize> },
    /// Behind the brace that begins a function.
    Body,
    /// A guard: what it is now, if anything, and the mutants that take the arm away.
    Guard { guard: Option<Range<usize>>, without: Vec<u32> },
    /// A field of an expression that takes the others from a base.
    Field { name: String, value: Option<Range<usize>>, base: String },
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [list, root, map, rest @ ..] = &arguments[..] else {
        eprintln!("usage: switches MUTANTS.json ROOT MAP.json [NUMBERS]");
        std::process::exit(2);
    };
    let without: HashSet<u32> = match rest.first() {
        Some(path) => read(path).lines().map(|line| line.trim().parse().expect("a number a line")).collect(),
        None => HashSet::new(),
    };
    let listed: Vec<Value> = serde_json::from_str(&read(list)).expect("a list of mutants in JSON");
    let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for (number, mutant) in (1u32..).zip(&listed) {
        let start = &mutant["span"]["start"];
        let place = |key: &str| start[key].as_u64().expect("a place") as usize;
        files.entry(text(&mutant["file"])).or_default().push(Mutant {
            number,
            genre: text(&mutant["genre"]),
            replacement: text(&mutant["replacement"]),
            start: (place("line"), place("column")),
        });
    }
    let mut told = serde_json::Map::new();
    for (name, mutants) in files {
        let path = Path::new(root).join(&name);
        let source = read(path.to_str().expect("a path"));
        let (changed, places) = rewrite(&source, &mutants, &without);
        fs::write(&path, changed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for mutant in &mutants {
            let place = match places.get(&mutant.number) {
                Some(found) => {
                    let Range { start: first, end: last } = found.lines;
                    json!({ "file": name, "first": first, "last": last, "asks": found.asks })
                }
                None if without.contains(&mutant.number) => json!({ "file": name, "nowhere": "left out" }),
                None => {
                    json!({ "file": name, "nowhere": "no expression that can be asked while the program runs" })
                }
            };
            told.insert(mutant.number.to_string(), place);
        }
    }
    fs::write(map, Value::Object(told).to_string()).unwrap_or_else(|error| panic!("{map}: {error}"));
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Where a mutant has got to: its lines, the last one with them, and the number that its place asks by.
struct Found {
    lines: Range<usize>,
    asks: u32,
}

/// The source with the mutants in it, and where they are.
fn rewrite(source: &str, mutants: &[Mutant], without: &HashSet<u32>) -> (String, HashMap<u32, Found>) {
    let parsed = syn::parse_file(source).expect("Rust");
    let mut finder = Finder {
        lines: Lines::new(source),
        source,
        wanted: HashMap::new(),
        sites: Vec::new(),
        constants: 0,
        can_lose_arms: Vec::new(),
    };
    for mutant in mutants.iter().filter(|mutant| !without.contains(&mutant.number)) {
        finder.wanted.entry(mutant.start).or_default().push(mutant);
    }
    finder.visit_file(&parsed);
    let Finder { mut sites, .. } = finder;
    // Outer ones before what is in them.
    sites.sort_by_key(|site| (site.range.start, std::cmp::Reverse(site.range.end)));
    let written = Writer { source, sites: &sites }.write(0..source.len(), 0..sites.len());
    settle(&written)
}

/// Marks that show where a mutant begins and ends are taken out, and told as lines.
fn settle(written: &str) -> (String, HashMap<u32, Found>) {
    let (mut settled, mut places, mut line) = (String::new(), HashMap::<u32, Found>::new(), 1);
    let mut rest = written;
    while let Some(at) = rest.find(['\u{1}', '\n']) {
        settled += &rest[..at];
        if rest[at..].starts_with('\n') {
            line += 1;
            settled.push('\n');
            rest = &rest[at + 1..];
            continue;
        }
        let end = at + 1 + rest[at + 1..].find('\u{1}').expect("a mark ends");
        let (number, asks) = rest[at + 1..end].split_once('/').expect("a mark has two numbers");
        let [number, asks] = [number, asks].map(|number| number.parse().expect("a number"));
        places
            .entry(number)
            .and_modify(|found| found.lines.end = line)
            .or_insert(Found { lines: line..line, asks });
        rest = &rest[end + 1..];
    }
    settled += rest;
    (settled, places)
}

/// Where lines begin, in bytes.
struct Lines {
    starts: Vec<usize>,
    source: String,
}

impl Lines {
    fn new(source: &str) -> Self {
        let ends = source.match_indices('\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(ends).collect(), source: source.to_owned() }
    }

    fn at(&self, place: LineColumn) -> usize {
        let line = &self.source[self.starts[place.line - 1]..];
        self.starts[place.line - 1] + line.char_indices().nth(place.column).map_or(line.len(), |(at, _)| at)
    }

    fn range(&self, span: Span) -> Range<usize> {
        self.at(span.start())..self.at(span.end())
    }
}

/// Goes through a file for the places of its mutants.
struct Finder<'a> {
    lines: Lines,
    source: &'a str,
    wanted: HashMap<Place, Vec<&'a Mutant>>,
    sites: Vec<Site>,
    /// How many constants are around, which nothing can be asked in.
    constants: usize,
    /// Of each `match` around, whether an arm may be gone.
    can_lose_arms: Vec<bool>,
}

impl Finder<'_> {
    fn found(&self, span: Span, genre: &str) -> Vec<(u32, String)> {
        let place = (span.start().line, span.start().column + 1);
        let here = self.wanted.get(&place).into_iter().flatten();
        if self.constants > 0 {
            return Vec::new();
        }
        here.filter(|mutant| mutant.genre == genre)
            .map(|mutant| (mutant.number, mutant.replacement.clone()))
            .collect()
    }

    fn add(&mut self, range: Range<usize>, what: What, mutants: Vec<(u32, String)>) {
        self.sites.push(Site { range, what, mutants });
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constants += 1;
        visit(self);
        self.constants -= 1;
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block, visit: impl FnOnce(&mut Self)) {
        if signature.constness.is_some() {
            return self.constant(visit);
        }
        // What is returned as some type has one type, which the mutant's is not.
        let is_opaque = matches!(&signature.output, syn::ReturnType::Type(_, output) if has_impl(output));
        if let Some(first) = block.stmts.first()
            && !is_opaque
        {
            let mutants = self.found(first.span(), "FnValue");
            if !mutants.is_empty() {
                let behind = self.lines.range(block.brace_token.span.open()).end;
                self.add(behind..behind, What::Body, mutants);
            }
        }
        visit(self);
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant(|finder| visit::visit_item_const(finder, item));
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constant(|finder| visit::visit_item_static(finder, item));
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.constant(|finder| visit::visit_impl_item_const(finder, item));
    }

    fn visit_type(&mut self, item: &'ast syn::Type) {
        self.constant(|finder| visit::visit_type(finder, item));
    }

    fn visit_expr_repeat(&mut self, item: &'ast syn::ExprRepeat) {
        self.visit_expr(&item.expr);
        self.constant(|finder| finder.visit_expr(&item.len));
    }

    fn visit_expr_const(&mut self, item: &'ast syn::ExprConst) {
        self.constant(|finder| visit::visit_expr_const(finder, item));
    }

    fn visit_variant(&mut self, item: &'ast syn::Variant) {
        self.constant(|finder| visit::visit_variant(finder, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block, |finder| visit::visit_item_fn(finder, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block, |finder| visit::visit_impl_item_fn(finder, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        match &item.default {
            Some(block) => self.function(&item.sig, block, |finder| visit::visit_trait_item_fn(finder, item)),
            None => visit::visit_trait_item_fn(self, item),
        }
    }

    fn visit_expr_binary(&mut self, item: &'ast syn::ExprBinary) {
        let mutants = self.found(item.op.span(), "BinaryOperator");
        // `let` behind `if` is no expression: it cannot be moved into a `match`.
        if !mutants.is_empty() && !has_let(&item.left) && !has_let(&item.right) {
            let [left, operator, right] =
                [item.left.span(), item.op.span(), item.right.span()].map(|span| self.lines.range(span));
            self.add(left.start..right.end, What::Binary { left, operator, right }, mutants);
        }
        visit::visit_expr_binary(self, item);
    }

    fn visit_expr_unary(&mut self, item: &'ast syn::ExprUnary) {
        let mutants = self.found(item.op.span(), "UnaryOperator");
        if !mutants.is_empty() {
            let (range, operand) = (self.lines.range(item.span()), self.lines.range(item.expr.span()));
            self.add(range, What::Unary { operand }, mutants);
        }
        visit::visit_expr_unary(self, item);
    }

    fn visit_expr_match(&mut self, item: &'ast syn::ExprMatch) {
        // Where no arm takes all, none can go.
        self.can_lose_arms.push(item.arms.iter().any(takes_all));
        visit::visit_expr_match(self, item);
        self.can_lose_arms.pop();
    }

    fn visit_arm(&mut self, item: &'ast syn::Arm) {
        let begins = item.attrs.first().map_or_else(|| item.pat.span(), |attribute| attribute.span());
        let mut arm = self.found(begins, "MatchArm");
        arm.extend(if item.attrs.is_empty() { Vec::new() } else { self.found(item.pat.span(), "MatchArm") });
        if self.can_lose_arms.last() == Some(&false) || takes_all(item) {
            arm.clear();
        }
        let guard = item.guard.as_ref().map(|(_, guard)| guard);
        let of_guard = guard.map_or_else(Vec::new, |guard| self.found(guard.span(), "MatchArmGuard"));
        if (!arm.is_empty() || !of_guard.is_empty()) && !guard.is_some_and(|guard| has_let(guard)) {
            let pattern = self.lines.range(item.pat.span()).end;
            let guard = guard.map(|guard| self.lines.range(guard.span()));
            let range = pattern..guard.as_ref().map_or(pattern, |guard| guard.end);
            let without = arm.iter().map(|(number, _)| *number).collect();
            self.add(range, What::Guard { guard, without }, of_guard);
        }
        visit::visit_arm(self, item);
    }

    fn visit_expr_struct(&mut self, item: &'ast syn::ExprStruct) {
        for field in &item.fields {
            let mutants = self.found(field.span(), "StructField");
            let (Some(base), syn::Member::Named(name)) = (&item.rest, &field.member) else { continue };
            if !mutants.is_empty() {
                let mut base = self.source[self.lines.range(base.span())].to_owned();
                if base == "Default::default()" {
                    base = format!(
                        "<{} as Default>::default()",
                        &self.source[self.lines.range(item.path.span())]
                    );
                }
                let value = field.colon_token.is_some().then(|| self.lines.range(field.expr.span()));
                let range = self.lines.range(field.span());
                self.add(range, What::Field { name: name.to_string(), value, base }, mutants);
            }
        }
        visit::visit_expr_struct(self, item);
    }
}

/// Whether an arm takes whatever comes.
fn takes_all(arm: &syn::Arm) -> bool {
    let is_open = match &arm.pat {
        syn::Pat::Wild(_) => true,
        // In capitals it is a constant or a variant.
        syn::Pat::Ident(pattern) => {
            pattern.subpat.is_none() && pattern.ident.to_string().starts_with(char::is_lowercase)
        }
        _ => false,
    };
    is_open && arm.guard.is_none()
}

/// Whether a type is one of which only a trait is told.
fn has_impl(output: &syn::Type) -> bool {
    struct Looks(bool);
    impl<'ast> Visit<'ast> for Looks {
        fn visit_type_impl_trait(&mut self, _: &'ast syn::TypeImplTrait) {
            self.0 = true;
        }
    }
    let mut looks = Looks(false);
    looks.visit_type(output);
    looks.0
}

/// Whether a condition has a `let` that binds for what is behind it.
fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

struct Writer<'a> {
    source: &'a str,
    sites: &'a [Site],
}

impl Writer<'_> {
    /// A range of the source, with those of the given sites that are in it.
    fn write(&self, range: Range<usize>, sites: Range<usize>) -> String {
        let (mut written, mut at, mut next) = (String::new(), range.start, sites.start);
        while next < sites.end {
            let site = &self.sites[next];
            let mut behind = next + 1;
            let is_within =
                |other: &Site| other.range.start >= site.range.start && other.range.end <= site.range.end;
            while behind < sites.end && is_within(&self.sites[behind]) && !site.range.is_empty() {
                behind += 1;
            }
            if site.range.start >= range.start && site.range.end <= range.end {
                written += &self.source[at..site.range.start];
                written += &self.site(site, next + 1..behind);
                at = site.range.end;
            }
            next = behind;
        }
        written + &self.source[at..range.end]
    }

    /// Of a range, with the sites around it that it may have some of.
    fn part(&self, range: &Range<usize>, within: &Range<usize>) -> String {
        let inside = within.clone().filter(|at| {
            let site = &self.sites[*at].range;
            site.start >= range.start && site.end <= range.end
        });
        let inside: Vec<usize> = inside.collect();
        match (inside.first(), inside.last()) {
            (Some(first), Some(last)) => self.write(range.clone(), *first..last + 1),
            _ => self.source[range.clone()].to_owned(),
        }
    }

    fn site(&self, site: &Site, within: Range<usize>) -> String {
        let plain = |range: &Range<usize>| &self.source[range.clone()];
        let mut numbers: Vec<u32> = site.mutants.iter().map(|(number, _)| *number).collect();
        if let What::Guard { without, .. } = &site.what {
            numbers.extend(without);
        }
        numbers.sort_unstable();
        let first = numbers[0];
        let others = numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" | ");
        let asks = format!("match {SWITCH}({first}) {{ the_mutant if !matches!(the_mutant, {others}) => ");
        let arm = |number: u32, body: &str| {
            let mark = format!("\u{1}{number}/{first}\u{1}");
            format!("\n{mark}{number} => {{ {body} }}{mark}\n")
        };
        let end = "\n_ => unreachable!(), }";
        match &site.what {
            What::Binary { left, operator, right } => {
                let now =
                    format!("{} {} {}", self.part(left, &within), plain(operator), self.part(right, &within));
                let mut written = format!("({asks}{{ {now} }}");
                for (number, replacement) in &site.mutants {
                    written += &arm(*number, &format!("{} {replacement} {}", plain(left), plain(right)));
                }
                written + end + ")"
            }
            What::Unary { operand } => {
                let operator = &self.source[site.range.start..operand.start];
                let mut written = format!("({asks}{{ {operator}{} }}", self.part(operand, &within));
                for (number, _) in &site.mutants {
                    written += &arm(*number, plain(operand));
                }
                written + end + ")"
            }
            What::Body => {
                let mut written = format!(" match {SWITCH}({first}) {{");
                for (number, replacement) in &site.mutants {
                    written += &arm(*number, &format!("return {replacement};"));
                }
                written + "_ => {} }"
            }
            What::Guard { guard, without } => {
                let now = guard.as_ref().map_or_else(|| "true".to_owned(), |guard| self.part(guard, &within));
                let mut written = format!(" if {asks}{{ {now} }}");
                for (number, replacement) in &site.mutants {
                    written += &arm(*number, replacement);
                }
                for number in without {
                    written += &arm(*number, "false");
                }
                written + end
            }
            What::Field { name, value, base } => {
                let now = value.as_ref().map_or_else(|| name.clone(), |value| self.part(value, &within));
                let mut written = format!("{name}: {asks}{{ {now} }}");
                for (number, _) in &site.mutants {
                    let mut taken = String::new();
                    let _ = write!(taken, "({base}).{name}");
                    written += &arm(*number, &taken);
                }
                written + end
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(number: u32, genre: &str, replacement: &str, start: Place) -> Mutant {
        Mutant { number, genre: genre.to_owned(), replacement: replacement.to_owned(), start }
    }

    /// Without white space, which is nobody's concern.
    fn rewritten(source: &str, mutants: &[Mutant]) -> String {
        let (changed, places) = rewrite(source, mutants, &HashSet::new());
        syn::parse_file(&changed).unwrap_or_else(|error| panic!("{error}: {changed}"));
        assert!(
            places
                .values()
                .all(|found| found.lines.start <= found.lines.end
                    && found.lines.end <= changed.lines().count())
        );
        changed.split_whitespace().collect()
    }

    #[test]
    fn what_was_there_comes_first_and_has_the_switches_within_it() {
        let source = "fn f() -> bool { 1 + 2 < 3 }";
        let mutants = [mutant(1, "BinaryOperator", "==", (1, 24)), mutant(2, "BinaryOperator", "-", (1, 20))];
        let inner = "(matchcrate::mutants::active(2){the_mutantif!matches!(the_mutant,2)=>{1+2}2=>{1-2}_=>unreachable!(),})";
        assert_eq!(
            rewritten(source, &mutants),
            format!(
                "fnf()->bool{{(matchcrate::mutants::active(1){{the_mutantif!matches!(the_mutant,1)=>{{{inner}<3}}1=>{{1+2==3}}_=>unreachable!(),}})}}"
            )
        );
    }

    #[test]
    fn a_function_begins_with_what_its_mutants_return() {
        let changed = rewritten(
            "fn f() -> u8 { g() }",
            &[mutant(3, "FnValue", "0", (1, 16)), mutant(4, "FnValue", "1", (1, 16))],
        );
        assert_eq!(changed, "fnf()->u8{matchcrate::mutants::active(3){3=>{return0;}4=>{return1;}_=>{}}g()}");
    }

    #[test]
    fn an_arm_goes_by_its_guard_where_another_takes_all() {
        let one = |last: &str| {
            rewritten(
                &format!("fn f(x: u8) {{ match x {{ 1 => a(), {last} }} }}"),
                &[mutant(5, "MatchArm", "", (1, 25))],
            )
        };
        assert!(one("_ => b()").contains(
            "1ifmatchcrate::mutants::active(5){the_mutantif!matches!(the_mutant,5)=>{true}5=>{false}"
        ));
        for last in ["None => b()", "2..=255 | 0 => b()", "_ if c() => b()"] {
            assert!(!one(last).contains("active"), "{last}");
        }
    }

    #[test]
    fn a_field_is_that_of_the_base() {
        let changed = rewritten(
            "fn f() { g(S { a: 1, ..Default::default() }) }",
            &[mutant(6, "StructField", "", (1, 16))],
        );
        assert!(changed.contains("a:matchcrate::mutants::active(6){the_mutantif!matches!(the_mutant,6)=>{1}6=>{(<SasDefault>::default()).a}"), "{changed}");
    }

    #[test]
    fn what_is_constant_or_binds_for_what_follows_stays() {
        for (source, column) in [
            ("const A: u8 = 1 + 2;", 17),
            ("const fn f() -> u8 { 1 + 2 }", 24),
            ("fn f() { if let Some(x) = y && x { } }", 29),
            ("fn f() -> [u8; 1 + 2] { g() }", 18),
        ] {
            let changed = rewritten(source, &[mutant(7, "BinaryOperator", "-", (1, column))]);
            assert!(!changed.contains("active"), "{changed}");
        }
    }
}
