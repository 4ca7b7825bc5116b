//! Finished runs as one page for a browser: no script, no other file, light or dark as the reader has it.
//!
//! Everything that comes from outside (a command line, a server's answers, a targets file) is escaped where
//! it is put in.

use std::{
    fmt::Write,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    escape::escape,
    sections::{facts, plan, run, shown},
    units,
};
use crate::{machine::Machine, measured::Measured};

const STYLE: &str = include_str!("style.css");

/// A page about one run or several.
pub struct Page<'a> {
    pub title: String,
    pub machine: &'a Machine,
    /// What was judged, when something was: stands before the runs.
    pub verdicts: Vec<Verdict>,
    /// With a title each.
    pub runs: Vec<(String, &'a Measured)>,
}

/// One line of the table of verdicts.
pub struct Verdict {
    /// `good`, `bad` or `idle`: how it is coloured.
    pub class: &'static str,
    pub verdict: String,
    pub name: String,
    pub about: String,
    pub measured: String,
    pub bound: String,
    pub margin: String,
}

impl<'a> Page<'a> {
    /// A page about one run, under the words of its plan.
    pub fn of_run(measured: &'a Measured, machine: &'a Machine) -> Self {
        let word = |name: &str| measured.plan.get(name).map(shown);
        let parts = [
            word("command"),
            word("connections").map(|connections| format!("{connections} connections")),
            word("batch").map(|batch| format!("{batch} records a request")),
            word("rate").map(|rate| format!("{rate} requests/s")),
            word("consistency"),
        ];
        let title = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        Self { title, machine, verdicts: Vec::new(), runs: vec![(String::new(), measured)] }
    }

    /// The whole document.
    pub fn html(&self) -> String {
        let mut out = String::new();
        let title = escape(&self.title);
        // Writing into a String cannot fail; so below.
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header><h1>{title}</h1>{}</header>\n",
            self.when()
        );
        if !self.verdicts.is_empty() {
            verdicts(&mut out, &self.verdicts);
        }
        match &self.runs[..] {
            [(_, measured)] if self.verdicts.is_empty() => {
                run(&mut out, measured, self.machine);
                out.push_str("<section class=\"pair\">\n");
                plan(&mut out, measured);
            }
            runs => {
                for (name, measured) in runs {
                    let rate = units::rate(measured.per_sec(measured.records()));
                    let name = escape(name);
                    let _ = writeln!(
                        out,
                        "<details><summary><b>{name}</b> <span>{rate} records/s</span></summary>"
                    );
                    run(&mut out, measured, self.machine);
                    out.push_str("<section>\n");
                    plan(&mut out, measured);
                    out.push_str("</section>\n</details>\n");
                }
                out.push_str("<section>\n");
            }
        }
        self.setting(&mut out);
        out.push_str("</section>\n");
        out.push_str("</main>\n</body>\n</html>\n");
        out
    }

    fn when(&self) -> String {
        let began = self.runs.iter().map(|(_, measured)| measured.began_unix_ms).min();
        let Some(began) = began.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms))) else {
            return String::new();
        };
        // The formatter takes no date beyond the year 9999.
        if began >= UNIX_EPOCH + Duration::from_secs(253_402_300_800) {
            return String::new();
        }
        format!(
            "<p>{} · scribe-loadgen {}</p>",
            escape(&httpdate::fmt_http_date(began)),
            escape(env!("CARGO_PKG_VERSION"))
        )
    }

    /// The machine and the command, which are the same for all runs.
    fn setting(&self, out: &mut String) {
        let machine = self.machine;
        let mut rows = Vec::new();
        let mut known =
            |name: &str, value: Option<String>| rows.extend(value.map(|value| (name.to_owned(), value)));
        known("processor", machine.cpu.clone());
        known("cores", Some(machine.cores.to_string()));
        known("memory", machine.memory_bytes.map(units::bytes));
        known("system", machine.os.clone());
        known("kernel", machine.kernel.clone());
        out.push_str("<div class=\"stack\">\n");
        facts(out, "Machine of the load generator", &rows);
        if let Some((_, first)) = self.runs.first() {
            let command = escape(&command_line(&first.command));
            let _ = writeln!(out, "<div><h2>Command</h2><pre>{command}</pre></div>");
        }
        out.push_str("</div>\n");
    }
}

/// Arguments as a shell takes them.
fn command_line(arguments: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
    let quoted = arguments.iter().map(|argument| {
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn verdicts(out: &mut String, verdicts: &[Verdict]) {
    out.push_str(
        "<section><h2>Targets</h2><div class=\"wide\"><table class=\"verdicts\"><thead><tr><th>target<th>what it is\
         <th class=\"n\">measured<th class=\"n\">bound<th class=\"n\">margin<th>verdict</tr></thead><tbody>\n",
    );
    for verdict in verdicts {
        let [name, about, measured, bound, margin, said] = [
            &verdict.name,
            &verdict.about,
            &verdict.measured,
            &verdict.bound,
            &verdict.margin,
            &verdict.verdict,
        ]
        .map(|text| escape(text));
        let class = verdict.class;
        let _ = writeln!(
            out,
            "<tr><td><b>{name}</b><td>{about}<td class=\"n\">{measured}<td class=\"n\">{bound}<td class=\"n\">{margin}\
             <td><span class=\"pill {class}\">{said}</span></tr>"
        );
    }
    out.push_str("</tbody></table></div></section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{measured::Truth, report::tests::measured};

    fn page(measured: &Measured) -> String {
        let machine = Machine { cores: 2, cpu: Some("A <fast> one".to_owned()), ..Machine::default() };
        Page::of_run(measured, &machine).html()
    }

    /// Every element that is opened is closed, in order, except those that HTML closes by itself.
    fn assert_well_formed(html: &str) {
        const ALONE: [&str; 11] =
            ["meta", "path", "rect", "circle", "th", "td", "dt", "dd", "!doctype", "thead", "tbody"];
        let mut open: Vec<&str> = Vec::new();
        let body = html.split("</style>").last().unwrap();
        for tag in body.split('<').skip(1) {
            let tag = tag.split('>').next().unwrap();
            let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap();
            if ALONE.contains(&name) || tag.ends_with('/') {
                continue;
            }
            if tag.starts_with('/') {
                match open.pop() {
                    Some(opened) => assert_eq!(opened, name),
                    None => assert!(["head", "html"].contains(&name), "</{name}>"),
                }
            } else {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_page_is_whole_and_stands_alone() {
        let html = page(&measured());
        assert_well_formed(&html);
        for part in [
            "<h1>mixed, 64 connections</h1>",
            "Sun, 09 Sep 2001 01:46:40 GMT",
            "A &lt;fast&gt; one",
            "3 × 503 overloaded",
            "Throughput over time",
            "Latency over time",
            "Latency by percentile",
            "Stage by stage",
            "ext4 on /dev/vda",
            "read back: all there",
            "scribe-loadgen mixed --note &#39;it&#39;\\&#39;&#39;s &lt;here&gt;&#39;",
        ] {
            assert!(html.contains(part), "{part}");
        }
        for outside in ["http-equiv", "<script", "<link", "src=", "href=", "url(", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_title_says_numbers_as_they_were_asked_for() {
        let mut measured = measured();
        measured.plan.insert("rate".to_owned(), 2000.0.into());
        assert!(page(&measured).contains("<h1>mixed, 64 connections, 2000 requests/s</h1>"));
    }

    #[test]
    fn a_page_says_what_was_not_done() {
        let mut measured = measured();
        measured.truth = Some(Err("nobody was <there>".to_owned()));
        measured.writes = None;
        let html = page(&measured);
        for part in ["read back: not checked", "not checked: nobody was &lt;there&gt;", "writes acknowledged"]
        {
            assert!(html.contains(part), "{part}");
        }
    }

    #[test]
    fn hostile_texts_stay_texts() {
        const HOSTILE: &str = "\"'><script>alert(1)</script>&\0";
        let mut measured = measured();
        measured.plan.insert(HOSTILE.to_owned(), serde_json::json!([HOSTILE, {"a": HOSTILE}]));
        measured.command.push(HOSTILE.to_owned());
        measured.refused.insert(HOSTILE.to_owned(), 1);
        measured.unknown.insert(HOSTILE.to_owned(), 1);
        measured.details.insert(HOSTILE.to_owned(), HOSTILE.to_owned());
        measured.truth = Some(Ok(Truth { lost: 1, shown: vec![HOSTILE.to_owned()], ..Truth::default() }));
        let server = &mut measured.servers[0];
        server.url = HOSTILE.to_owned();
        server.version = Some(HOSTILE.to_owned());
        server.profile = Some(HOSTILE.to_owned());
        server.file_system = Some(HOSTILE.to_owned());
        server.stages[0].name = HOSTILE.to_owned();
        measured.servers.push(measured.servers[0].clone());
        let machine = Machine {
            cpu: Some(HOSTILE.to_owned()),
            os: Some(HOSTILE.to_owned()),
            kernel: Some(HOSTILE.to_owned()),
            ..Machine::default()
        };
        let text = || HOSTILE.to_owned();
        let verdict = Verdict {
            class: "bad",
            verdict: text(),
            name: text(),
            about: text(),
            measured: text(),
            bound: text(),
            margin: text(),
        };
        let html = Page {
            title: text(),
            machine: &machine,
            verdicts: vec![verdict],
            runs: vec![(text(), &measured)],
        }
        .html();
        assert!(!html.contains("<script") && !html.contains('\0'));
        assert!(html.matches("&lt;script&gt;").count() > 25, "{}", html.matches("&lt;script&gt;").count());
        assert_well_formed(&html);
    }

    #[test]
    fn a_run_that_failed_at_once_has_a_page_too() {
        let mut measured = measured();
        (measured.writes, measured.reads, measured.truth) = (None, None, None);
        measured.timeline.clear();
        measured.servers.clear();
        measured.elapsed = Duration::ZERO;
        measured.began_unix_ms = u64::MAX;
        assert_well_formed(&page(&measured));
    }
}
