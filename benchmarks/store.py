"""scratch"""
import sys, time, json, statistics, tempfile, threading, functools, collections
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import optuna, sqlalchemy as sa, torch
from optuna.trial import TrialState
from optuna.storages._rdb import models
import postgres
from hpo import history, lease, objective, samplers, space, store, verdict
from hpo.definition import Definition, Search, Pruner, Sampler
from hpo.config import Config
from hpo.storage import leases
import datetime
optuna.logging.set_verbosity(optuna.logging.WARNING)
EPOCHS = 9

def definition(trials):
    P, R, C = space.Parameter, space.Range, space.Choices
    ps = (P(name="optimizer", kind="choice", values=C(choices=("sgd", "adam"))),
          P(name="lr", kind="float", values=R(low=1e-4, high=1.0, log=True)),
          P(name="weight_decay", kind="float", values=R(low=0.0, high=0.3)),
          P(name="batch_size", kind="int", values=R(low=8, high=64)))
    return Definition(name="ours", train=Config(dataset="digits", epochs=EPOCHS).model_dump(), space=ps,
        search=Search(trials=trials, sampler=Sampler(name="tpe"), pruner=Pruner(name="hyperband", min_epochs=1, reduction_factor=3)), points=())

def accuracy(lr, epoch, n): return 1/(1+abs(lr-0.1)) * (epoch/(EPOCHS+1)) * (1 + 1e-4*n)

def fill(s, study_id, made, n, ours, rng):
    if not n: return
    T = models.TrialModel.__table__
    with s.engine.begin() as c:
        if not ours:
            c.execute(sa.insert(T), [dict(number=i, study_id=study_id, state=TrialState.RUNNING, datetime_start=datetime.datetime.now()) for i in range(n)])
        ids = [r[0] for r in c.execute(sa.select(T.c.trial_id).where(T.c.study_id==study_id).order_by(T.c.number).limit(n))]
        st = datetime.datetime.now()
        c.execute(sa.update(T).where(T.c.trial_id.in_(ids[: n])) .values(datetime_start=st, datetime_complete=st, state=TrialState.COMPLETE)) if n else None
        dist = {p.name: p.distribution() for p in made.space}
        prm, val, inter, ua, sy, ls, pruned = [], [], [], [], [], [], []
        for i, t in enumerate(ids):
            setting = {"optimizer": rng.choice(["sgd","adam"]), "lr": 10**rng.uniform(-4,0), "weight_decay": rng.uniform(0,0.3), "batch_size": rng.randint(8,64)}
            for k, v in setting.items():
                prm.append(dict(trial_id=t, param_name=k, param_value=dist[k].to_internal_repr(v), distribution_json=optuna.distributions.distribution_to_json(dist[k])))
            last = EPOCHS if rng.random() < 0.4 else rng.choice([1,3])
            if last < EPOCHS: pruned.append(t)
            for e in range(1, last+1):
                inter.append(dict(trial_id=t, step=e, intermediate_value=accuracy(setting["lr"], e, i/100), intermediate_value_type=models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE))
            val.append(dict(trial_id=t, objective=0, value=accuracy(setting["lr"], last, i/100), value_type=models.TrialValueModel.TrialValueType.FINITE))
            sy.append(dict(trial_id=t, key="completed_rung_0", value_json=json.dumps(accuracy(setting["lr"], 1, i/100))))
            ua += [dict(trial_id=t, key=k, value_json=json.dumps(v)) for k, v in {"epochs": last, "wall_time_seconds": 1.0, "hardware": {"host": "h", "threads": 1}, "best_epoch": last, "epoch_seconds": [0.1]*last, "attempts":1}.items()]
            ls.append(dict(trial_id=t, study_id=study_id, token=1, attempts=1, expires=0.0, renewed=1.0, epoch=last, host="h", device="cpu"))
        if ids:
            for m, rows in ((models.TrialParamModel, prm), (models.TrialValueModel, val), (models.TrialIntermediateValueModel, inter), (models.TrialSystemAttributeModel, sy), (models.TrialUserAttributeModel, ua)):
                for a in range(0, len(rows), 5000):
                    c.execute(sa.insert(m.__table__), rows[a:a+5000])
            for a in range(0, len(pruned), 5000):
                c.execute(sa.update(T).where(T.c.trial_id.in_(pruned[a:a+5000])).values(state=TrialState.PRUNED))
            if ours: c.execute(sa.insert(leases), ls)

class Count:
    def __init__(self): self.n = collections.Counter(); self.t = collections.defaultdict(list); self.log=[]
    def listen(self, engine):
        def stmt(conn, cur, statement, *a):
            self.n["statements"] += 1
            self.log.append(statement.replace("\n"," ")[:230])
        sa.event.listen(engine, "before_cursor_execute", stmt)
        sa.event.listen(engine, "commit", lambda c: (self.n.update(["commits"]), self.log.append("COMMIT")))
    def timed(self, name, f):
        before = self.n["statements"], self.n["commits"]
        t = time.perf_counter(); 
        try: return f()
        finally:
            self.t[name].append((1e3*(time.perf_counter()-t), self.n["statements"]-before[0], self.n["commits"]-before[1]))

def hpo_trial(opened, study_id, made_name, storage, cnt, tmp):
    made = cnt.timed("definition", lambda: store.definition_of(opened, made_name))
    claim = cnt.timed("claim", lambda: lease.claim(opened, study_id, lease.owner("cpu"), seconds=60, max_attempts=5))
    place = objective.Place(study_id=study_id, definition=made, storage=storage, folder="", artifacts=None, datasets=None, device=torch.device("cpu"), stop=threading.Event())
    with lease.kept(claim):
        trial, config, study = cnt.timed("setting", lambda: objective._setting(claim, place))
        cnt.timed("hardware", lambda: objective._hardware(claim, place))
        judge = verdict.Judge(study, storage, made)
        lr = trial.params["lr"]
        try:
            for e in range(1, EPOCHS+1):
                a = accuracy(lr, e, claim.number/100)
                attrs = {"epochs": e, "best_epoch": e, "epoch_seconds": [0.1]*e, "wall_time_seconds": 1.0*e, "hardware": {"host":"h","threads":1}}
                judge.report(e, a)
                if e > 1: attrs |= {"checkpoint": f"c{e-1}"}
                cnt.timed("report" if e not in (1,3) else "report at rung", lambda: claim.commit(report=(e, a), attributes=attrs, checkpoint=attrs.get("checkpoint"), judge=judge.ask if e < EPOCHS else None))
                if e < EPOCHS: judge.obey()
            cnt.timed("end", lambda: claim.end(TrialState.COMPLETE, value=a, forget=True))
        except verdict.Pruned as p:
            cnt.timed("end", lambda: claim.end(TrialState.PRUNED, value=a, attributes={"pruned": "x"}, system=p.attributes, forget=True))

def plain_trial(study, made, cnt):
    trial = cnt.timed("ask", lambda: study.ask())
    ps = cnt.timed("suggest", lambda: {p.name: space.suggest(trial, p) for p in made.space})
    for e in range(1, EPOCHS+1):
        a = accuracy(ps["lr"], e, trial.number/100)
        cnt.timed("report", lambda: trial.report(a, e))
        if e < EPOCHS:
            if cnt.timed("prune" if e not in (1,3) else "prune at rung", lambda: trial.should_prune()):
                cnt.timed("tell", lambda: study.tell(trial, state=TrialState.PRUNED)); break
    else: cnt.timed("tell", lambda: study.tell(trial, a))

def main(url, n, trials):
    import random
    rng = random.Random(0)
    opened = store.open_(url, create=True)
    made = definition(n + 200)
    store.create(opened, made, "t")
    sid = store.study_id(opened, "ours")
    fill(opened, sid, made, n, True, rng)
    ps = optuna.create_study(storage=url, study_name="plain", direction="maximize")
    plain = optuna.load_study(storage=url, study_name="plain", sampler=optuna.samplers.TPESampler(seed=0), pruner=samplers.pruner(made))
    fill(opened, ps._study_id, made, n, False, rng)
    if url.startswith("post"):
        with opened.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c: c.exec_driver_sql("ANALYZE")
    a, b = Count(), Count()
    a.listen(opened.engine); b.listen(plain._storage._backend.engine)
    storage = history.History(opened, sid, "ours")
    for i in range(trials+1):
        hpo_trial(opened, sid, "ours", storage, a, None)
        plain_trial(plain, made, b)
        if i == 0:
            a.t.clear(); b.t.clear()
        if i == 1: a.log1 = list(a.log)
        if i < 1: a.log.clear(); b.log.clear()
    for name, c in (("hpo", a), ("plain", b)):
        print(f"== {url.split(':')[0]} {n} finished: {name}")
        for k, rows in c.t.items():
            med = lambda j: statistics.median(r[j] for r in rows)
            print(f"  {k:14} {med(0):7.2f} ms  {med(1):5} statements {med(2):4} commits   n={len(rows)}")
    return a

if __name__ == "__main__":
    import os
    sizes = [int(x) for x in (sys.argv[1] if len(sys.argv)>1 else "0,1000,10000").split(",")]
    trials = int(sys.argv[2]) if len(sys.argv)>2 else 5
    with tempfile.TemporaryDirectory() as d, postgres.server() as cluster:
        for n in sizes:
            a = main(f"sqlite:///{d}/h{n}.db", n, trials)
            with postgres.database(cluster) as url: a = main(url, n, trials)
    if os.environ.get("LOG"): print("\n".join(a.log1))
