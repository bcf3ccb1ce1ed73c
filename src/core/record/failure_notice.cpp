#include "mana_ai/core/record/failure_notice.hpp"

#include <array>
#include <utility>
#include <vector>

#include "mana_ai/core/record/iteration.hpp"

namespace mana_ai::core {

namespace {

struct KindWords {
    std::string_view kind;
    const char* reason;
};

// The first is for every kind without a text.
constexpr std::array<KindWords, 10> kReasons = {{
    {"", "Auf dem Server ist ein Fehler aufgetreten."},
    {"unreachable", "Das Sprachmodell ist nicht erreichbar."},
    {"timeout", "Das Sprachmodell hat nicht rechtzeitig geantwortet."},
    {"rate_limit", "Das Sprachmodell nimmt zurzeit keine weiteren Anfragen an."},
    {"auth", "Der Server hat keinen Zugang zum Sprachmodell."},
    {"blocked", "Das Sprachmodell lehnt den Inhalt der Mission ab."},
    {"capability", "Das Sprachmodell kann diese Aufgabe nicht ausführen."},
    {"truncated", "Die Antwort des Sprachmodells brach ab, weil sie zu lang war."},
    {kCrashed, "Der Server ist mehrmals abgestürzt, während er diese Mission plante."},
    {"malformed", "Die Antwort des Sprachmodells war nicht zu verstehen."},
}};

constexpr std::string_view kOnThisDevice =
    " „Erneut versuchen“ führt die Mission sofort auf diesem Gerät aus.";

FailureNotice failed_notice(std::string_view kind) {
    std::string reason = kReasons.front().reason;
    for (const KindWords& words : kReasons) {
        if (words.kind == kind) {
            reason = words.reason;
        }
    }
    const bool is_ours = kind == "database" || kind == "internal";
    FailureNotice notice;
    notice.title = "Planung auf dem Server fehlgeschlagen";
    notice.summary = "Der Server konnte diese Mission mehrmals hintereinander nicht planen.";
    notice.message = reason;
    notice.message += kind == "blocked"
                          ? " Lege sie mit einem anders formulierten Ziel neu an."
                          : " Der Server versucht es weiter, in immer größeren Abständen von bis "
                            "zu sechs Stunden.";
    if (kind != "blocked") {
        notice.message += kOnThisDevice;
    }
    if (kind != kCrashed) {
        notice.phase = is_ours ? "finalizing" : "calling-llm";
    }
    return notice;
}

}  // namespace

const char* name(NoticeCause cause) noexcept {
    switch (cause) {
        case NoticeCause::Failed:
            return "failed";
        case NoticeCause::Encrypted:
            return "encrypted";
        case NoticeCause::Unopened:
            return "unopened";
        case NoticeCause::Archived:
            return "archived";
        case NoticeCause::Budget:
            return "budget";
        case NoticeCause::UserBudget:
            break;
    }
    return "user-budget";
}

// Users are advised only what today's client supports: it edits budgets of agents, but neither a
// mission's objective, schedule and agent nor an archived agent.
FailureNotice failure_notice(NoticeCause cause, std::string_view error_kind) {
    FailureNotice notice;
    switch (cause) {
        case NoticeCause::Failed:
            return failed_notice(error_kind);
        case NoticeCause::Encrypted:
            notice.title = "Kein Server-Zugriff";
            notice.summary =
                "Diese Mission ist verschlüsselt, und der Server darf sie nicht lesen.";
            notice.message =
                "Der Server-Zugriff wurde nicht erteilt oder ist abgelaufen. Erteile ihn (erneut), "
                "damit die Mission auch ohne offenes Gerät läuft.";
            notice.phase = "resolving-inputs";
            break;
        case NoticeCause::Unopened:
            notice.title = "Server-Zugriff passt nicht zu dieser Mission";
            notice.summary =
                "Diese Mission ist verschlüsselt, und der Server kann sie nicht lesen.";
            notice.message =
                "Der erteilte Server-Zugriff passt nicht zu den Schlüsseln, mit denen deine Geräte "
                "die Mission verschlüsselt haben.";
            notice.phase = "resolving-inputs";
            break;
        case NoticeCause::Archived:
            notice.title = "Agent archiviert";
            notice.summary = "Der Agent dieser Mission ist archiviert.";
            notice.message =
                "Der Server führt Missionen archivierter Agenten nicht aus. Lege die Mission mit "
                "einem anderen Agenten neu an, oder lösche den Agenten: Dann läuft sie ohne ihn "
                "weiter.";
            break;
        case NoticeCause::Budget:
            notice.title = "Token-Budget aufgebraucht";
            notice.summary =
                "Das Token-Budget des Agenten oder dieser Mission ist seit mindestens einem Tag "
                "aufgebraucht.";
            notice.message =
                "Der Server plant diese Mission erst wieder, wenn das Budget reicht. Erhöhe das "
                "Tagesbudget, oder pausiere Missionen.";
            notice.phase = "calling-llm";
            break;
        case NoticeCause::UserBudget:
            notice.title = "Token-Budget auf dem Server aufgebraucht";
            notice.summary =
                "Das Token-Budget auf dem Server ist seit mindestens einem Tag aufgebraucht.";
            notice.message =
                "Der Server plant diese Mission erst wieder, wenn das Budget reicht. Pausiere "
                "Missionen, oder bitte den Betreiber um ein größeres Budget.";
            notice.phase = "calling-llm";
            break;
    }
    notice.message += kOnThisDevice;
    return notice;
}

Json build_failed_iteration(const FailureNotice& notice, std::string_view iteration_id,
                            Instant started_at, Instant finished_at) {
    Json details = {{"name", notice.title}, {"message", notice.message}};
    if (!notice.phase.empty()) {
        details["phase"] = notice.phase;
    }
    const std::vector<PlanStep> none;
    Json iteration =
        build_iteration({std::string(iteration_id), started_at, finished_at, none, notice.summary});
    iteration["overallStatus"] = "failed";
    iteration["errorDetails"] = std::move(details);
    return iteration;
}

}  // namespace mana_ai::core
