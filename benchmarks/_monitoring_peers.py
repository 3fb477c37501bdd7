"""The peers, run by their own Python: they need other versions than the project pins.

Reads cases from a NumPy archive, prints what each peer says as JSON. Not imported by anything:

    python _monitoring_peers.py evidently data.npz
"""

import json
import sys
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")


def _evidently():
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    def look(baseline, window):
        names = [f"c{i}" for i in range(window.shape[1])]
        definition = DataDefinition(numerical_columns=names)
        a, b = (
            Dataset.from_pandas(pd.DataFrame(rows, columns=names), data_definition=definition)
            for rows in (window, baseline)
        )
        metrics = Report([DataDriftPreset()]).run(a, b).dict()["metrics"]
        # Its verdict on the data: at least half of the columns have drifted.
        return metrics[0]["value"]["share"] >= 0.5

    return look


def _nannyml():
    import nannyml
    import pandas as pd

    def look(baseline, window):
        names = [f"c{i}" for i in range(window.shape[1])]
        calculator = nannyml.UnivariateDriftCalculator(column_names=names, chunk_size=len(window))
        calculator.fit(pd.DataFrame(baseline, columns=names))
        found = calculator.calculate(pd.DataFrame(window, columns=names))
        found = found.filter(period="analysis").to_df()
        alerts = [found[column] for column in found.columns if column[-1] == "alert"]
        return any(bool(alert.iloc[-1]) for alert in alerts)

    return look


def _alibi_detect():
    from alibi_detect.cd import KSDrift

    def look(baseline, window):
        found = KSDrift(baseline, p_val=0.05).predict(window)
        return bool(found["data"]["is_drift"])

    return look


def _whylogs():
    import pandas as pd
    import whylogs
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    def look(baseline, window):
        names = [f"c{i}" for i in range(window.shape[1])]
        views = [
            whylogs.log(pd.DataFrame(rows, columns=names)).profile().view()
            for rows in (window, baseline)
        ]
        scores = calculate_drift_scores(
            target_view=views[0], reference_view=views[1], with_thresholds=True
        )
        return any(score["drift_category"] == "DRIFT" for score in scores.values() if score)

    return look


def _river():
    from river import drift

    def look(baseline, window):
        found = False
        for column in range(window.shape[1]):
            detector = drift.ADWIN()
            for value in baseline[:, column]:
                detector.update(value)
            for value in window[:, column]:
                detector.update(value)
                found = found or detector.drift_detected
        return found

    return look


_PEERS = {
    "evidently": _evidently,
    "nannyml": _nannyml,
    "alibi-detect": _alibi_detect,
    "whylogs": _whylogs,
    "river ADWIN": _river,
}


def main(name, path):
    look = _PEERS[name]()
    data = np.load(path)
    found = {}
    for case in sorted({key.split("|")[0] for key in data.files}):
        n_runs = sum(key.startswith(f"{case}|baseline") for key in data.files)
        alarms, seconds = 0, []
        for run in range(n_runs):
            baseline, window = data[f"{case}|baseline|{run}"], data[f"{case}|window|{run}"]
            started = time.perf_counter()
            alarms += bool(look(baseline, window))
            seconds.append(time.perf_counter() - started)
        found[case] = {"alarms": alarms, "runs": n_runs, "median_s": float(np.median(seconds))}
        print(json.dumps({case: found[case]}), file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
