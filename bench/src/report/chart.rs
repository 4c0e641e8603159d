//! Bar charts in SVG, on a light ground that can be read in any theme.

use std::fmt::Write as _;

/// Where bars begin, how long the longest is, and how wide the picture is, in pixels.
const LEFT: f64 = 290.0;
const LONGEST: f64 = 400.0;
const WIDTH: f64 = 800.0;
const BAR: f64 = 14.0;
const GAP: f64 = 10.0;
const TOP: f64 = 44.0;

/// Our colour, and everybody else's.
const OURS: &str = "#c2410c";
const OTHERS: &str = "#64748b";

/// A chart of horizontal bars, in groups that have a name.
pub(crate) struct Chart {
    title: String,
    unit: &'static str,
    /// The longest bar that is drawn whole.
    longest: f64,
    groups: Vec<Group>,
}

struct Group {
    name: String,
    ours: bool,
    /// Each bar's label and length; no length where there is nothing to show.
    bars: Vec<(String, Option<f64>)>,
}

impl Chart {
    /// An empty one.
    pub(crate) fn new(title: &str, unit: &'static str) -> Self {
        Self { title: title.to_owned(), unit, longest: f64::INFINITY, groups: Vec::new() }
    }

    /// Cuts longer bars, visibly: one bar must not make the others too short to compare.
    pub(crate) fn cut_beyond(self, longest: f64) -> Self {
        Self { longest, ..self }
    }

    /// Adds a group.
    pub(crate) fn group(&mut self, name: &str, ours: bool, bars: Vec<(String, Option<f64>)>) {
        self.groups.push(Group { name: name.to_owned(), ours, bars });
    }

    /// The picture.
    pub(crate) fn svg(&self) -> String {
        let bars = self.groups.iter().map(|group| crate::load::as_f64(group.bars.len() as u64) * BAR + GAP);
        let height = TOP + bars.sum::<f64>() + GAP;
        let values = self.groups.iter().flat_map(|group| group.bars.iter().filter_map(|(_, value)| *value));
        let most = values.fold(f64::MIN_POSITIVE, f64::max).min(self.longest);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} \
             {height}\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
             fill=\"#ffffff\"/>\n<text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"600\">{}</text>\n",
            escaped(&self.title)
        );
        let mut y = TOP;
        for group in &self.groups {
            let colour = if group.ours { OURS } else { OTHERS };
            let weight = if group.ours { "600" } else { "400" };
            let name = escaped(&group.name);
            let line = y + 11.0;
            let _ = writeln!(svg, "<text x=\"16\" y=\"{line}\" font-weight=\"{weight}\">{name}</text>");
            for (about, value) in &group.bars {
                self.bar(&mut svg, y, colour, about, value.map(|value| (value, value / most)));
                y += BAR;
            }
            y += GAP;
        }
        svg + "</svg>\n"
    }

    fn bar(&self, svg: &mut String, y: f64, colour: &str, about: &str, value: Option<(f64, f64)>) {
        let (line, about_x, about) = (y + 11.0, LEFT - 8.0, escaped(about));
        let _ = writeln!(
            svg,
            "<text x=\"{about_x}\" y=\"{line}\" text-anchor=\"end\" fill=\"#475569\">{about}</text>"
        );
        let (length, told) = match value {
            Some((value, part)) => (part.min(1.0) * LONGEST, self.told(value)),
            None => (0.0, "fails".to_owned()),
        };
        let is_cut = value.is_some_and(|(_, part)| part > 1.0);
        let (thick, end) = (BAR - 2.0, LEFT + length + 6.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{thick}\" fill=\"{colour}\"/>\n<text \
             x=\"{end:.1}\" y=\"{line}\">{told}</text>"
        );
        if is_cut {
            let (gap, bottom) = (LEFT + length - 24.0, y + thick);
            let _ =
                writeln!(svg, "<path d=\"M{gap} {bottom} l6 -{thick} h5 l-6 {thick} z\" fill=\"#ffffff\"/>");
        }
    }

    fn told(&self, value: f64) -> String {
        match self.unit {
            "$" => format!("${value:.2}"),
            unit if value < 100.0 => format!("{value:.1} {unit}"),
            unit => format!("{value:.0} {unit}"),
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_has_the_whole_length_and_nothing_is_taken_for_markup() {
        let mut chart = Chart::new("a < b", "$");
        chart.group("us", true, vec![("1".to_owned(), Some(2.0)), ("2".to_owned(), Some(1.0))]);
        chart.group("them", false, vec![(String::new(), None)]);
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("fails"));
        assert!(svg.contains("width=\"400.0\"") && svg.contains("width=\"200.0\""));
        let svg = chart.cut_beyond(1.0).svg();
        assert_eq!(svg.matches("width=\"400.0\"").count(), 2);
        assert_eq!(svg.matches("<path").count(), 1, "one is cut");
    }
}
