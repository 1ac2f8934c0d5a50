# SPDX-License-Identifier: Apache-2.0
"""Scaling laws from finished runs: points in; law, intervals, frontier, pictures and report out. Never JAX.

Where things are, in the order in which a fit uses them:

    points, runs                      what was measured
    laws, catalogue, published        what may be fitted, and what papers have printed
    surface, solver, weights          a law on points, and its minimum
    certificate, bootstrap, intervals, quantities, frontier, holdout, diagnosis
                                      how far to trust it, and what follows from it
    fit                               all of that as one call, `fit_scaling_law`
    leaderboard, sensitivity, coverage, isoflop (valleys), compare (paired), analyses
                                      what is said about a fit besides the fit
    summary, tables, wording          the same in words
    plots, analysis_charts -> charts (ticks, palette) -> draw_matplotlib, draw_plotly, painter, interaction
                                      pictures: described once, drawn twice
    sections, analysis_sections, section -> page, style, latex, provenance, report
                                      report.html and what lies beside it
    design (design_*)                 which runs to make, before making any
    spectral, known_truth, known_truth_page, known_truth_plot, judged_sweeps
                                      laws tried where the truth is known
"""
