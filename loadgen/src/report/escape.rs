//! Text made safe for HTML and SVG, wherever it comes from.

/// The text as it has to stand in an element or a quoted attribute. Characters that no document may hold
/// become the replacement character.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || ('\u{fdd0}'..='\u{fdef}').contains(&c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_a_meaning_loses_it() {
        assert_eq!(
            escape("<b a=\"x\" b='y'>&amp;\0"),
            "&lt;b a=&quot;x&quot; b=&#39;y&#39;&gt;&amp;amp;\u{fffd}"
        );
        assert_eq!(escape("Ä 5 µs – fine"), "Ä 5 µs – fine");
    }

    proptest! {
        #[test]
        fn nothing_can_leave_its_place(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(['<', '>', '"', '\'', '\0']));
        }
    }
}
